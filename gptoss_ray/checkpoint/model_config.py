"""ModelConfig: the shape of the network, from a checkpoint's config.json and nowhere else."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from gptoss_ray.checkpoint.config_json import Layout, format_config, layout_of, parse_config
from gptoss_ray.checkpoint.json_file import read_json_object
from gptoss_ray.errors import CheckpointError

__all__ = [
    "FULL",
    "MXFP4_BITS",
    "MXFP4_BLOCK",
    "SLIDING",
    "Layout",
    "ModelConfig",
    "alternating_layer_types",
    "read_layout",
]

ExpertFormat = Literal["mxfp4", "unquantized"]

SLIDING, FULL = "sliding_attention", "full_attention"
MXFP4_BLOCK = 32
MXFP4_BITS = 4 + 8 / MXFP4_BLOCK
"""Of one value, its share of the block's scale included."""
_PUBLISHED = {"gpt-oss-20b": (24, 32), "gpt-oss-120b": (36, 128)}
_MAX_CONFIG_BYTES = 1 << 20


@dataclass(frozen=True)
class ModelConfig:
    """Shapes and constants of one gpt-oss model; CheckpointError if they contradict each other."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    num_experts: int
    num_experts_per_token: int
    layer_types: tuple[str, ...]
    sliding_window: int = 128
    max_context: int = 131072
    rope_theta: float = 150000.0
    rope_scaling_factor: float = 32.0
    rope_original_context: int = 4096
    rope_beta_fast: float = 32.0
    rope_beta_slow: float = 1.0
    rms_norm_eps: float = 1e-5
    swiglu_limit: float = 7.0
    swiglu_alpha: float = 1.702
    eos_token_ids: tuple[int, ...] = ()
    pad_token_id: int | None = None
    expert_format: ExpertFormat = "mxfp4"

    def __post_init__(self) -> None:
        for problem in self._contradictions():
            raise CheckpointError(problem, param=problem.partition(" ")[0])

    def _contradictions(self) -> list[str]:
        for field, value in dataclasses.asdict(self).items():
            if isinstance(value, int | float) and value <= 0 and field != "pad_token_id":
                return [f"{field} {value} is not above 0"]
        heads, kv_heads, experts = self.num_attention_heads, self.num_key_value_heads, self.num_experts
        checks = {
            f"num_attention_heads {heads} is no multiple of num_key_value_heads {kv_heads}": (
                heads % kv_heads == 0
            ),
            f"head_dim {self.head_dim} is odd, but rotary embedding needs pairs": self.head_dim % 2 == 0,
            f"num_experts_per_token {self.num_experts_per_token} exceeds num_experts {experts}": (
                self.num_experts_per_token <= experts
            ),
            f"layer_types must be {self.num_layers} of {SLIDING} and {FULL}": (
                len(self.layer_types) == self.num_layers and set(self.layer_types) <= {SLIDING, FULL}
            ),
            f"eos_token_id or pad_token_id is not below vocab_size {self.vocab_size}": all(
                token is None or token < self.vocab_size for token in (*self.eos_token_ids, self.pad_token_id)
            ),
        }
        if self.expert_format == "mxfp4":
            for field in ("hidden_size", "intermediate_size"):
                size = getattr(self, field)
                checks[f"{field} {size} is no multiple of the MXFP4 block, {MXFP4_BLOCK}"] = (
                    size % MXFP4_BLOCK == 0
                )
        return [problem for problem, holds in checks.items() if not holds]

    def expected_experts(self, num_tokens: int) -> float:
        """Return how many distinct experts of a layer that many tokens choose: E · (1 - (1 - k/E)^tokens)."""
        unchosen = 1 - self.num_experts_per_token / self.num_experts
        return self.num_experts * float(1 - unchosen**num_tokens)

    @property
    def has_alternating_layers(self) -> bool:
        """Whether the layers follow the published pattern."""
        return self.layer_types == alternating_layer_types(self.num_layers)

    def is_sliding(self, layer: int) -> bool:
        """Whether `layer` attends only to its last `sliding_window` positions."""
        return self.layer_types[layer] == SLIDING

    def unpacked_expert_bytes(self, itemsize: int) -> int:
        """Return the bytes of one expert's two matrices, a value in `itemsize` bytes; biases do not count."""
        return 3 * self.intermediate_size * self.hidden_size * itemsize

    def replace(self, **changes: object) -> ModelConfig:
        """Return a copy with fields changed; a new `num_layers` brings the usual alternating layer types."""
        if "num_layers" in changes and "layer_types" not in changes:
            changes["layer_types"] = alternating_layer_types(int(str(changes["num_layers"])))
        return dataclasses.replace(self, **changes)  # type: ignore[arg-type]

    def to_json(self, layout: Layout) -> dict[str, object]:
        """Return the config.json of `layout`; CheckpointError if that layout cannot express a field."""
        return format_config(self, layout)

    @classmethod
    def from_folder(cls, folder: Path | str) -> ModelConfig:
        """Read config.json of either layout; CheckpointError names field, value and what is supported."""
        path, document = _read_document(folder)
        fields = parse_config(document, str(path))
        fields.setdefault("layer_types", alternating_layer_types(int(str(fields["num_layers"]))))
        try:
            return cls(**fields)  # type: ignore[arg-type]
        except CheckpointError as error:
            raise CheckpointError(f"{path}: {error.message}", param=error.param) from None

    @classmethod
    def published(cls, name: str) -> ModelConfig:
        """Return the shape of `gpt-oss-20b` or `gpt-oss-120b`; ValueError for any other name."""
        if name not in _PUBLISHED:
            raise ValueError(f"no published model is called {name!r}; choose from {', '.join(_PUBLISHED)}")
        num_layers, num_experts = _PUBLISHED[name]
        return cls(
            vocab_size=201088,
            hidden_size=2880,
            intermediate_size=2880,
            num_layers=num_layers,
            num_attention_heads=64,
            num_key_value_heads=8,
            head_dim=64,
            num_experts=num_experts,
            num_experts_per_token=4,
            layer_types=alternating_layer_types(num_layers),
            eos_token_ids=(200002,),
            pad_token_id=199999,
        )


def alternating_layer_types(num_layers: int) -> tuple[str, ...]:
    """Return the published pattern: layers 0, 2, 4 … slide, the others see everything."""
    return tuple(FULL if layer % 2 else SLIDING for layer in range(num_layers))


def read_layout(folder: Path | str) -> Layout:
    """Tell the layout of a checkpoint folder by its config.json."""
    return layout_of(_read_document(folder)[1])


def _read_document(folder: Path | str) -> tuple[Path, dict[str, object]]:
    path = Path(folder) / "config.json"
    return path, read_json_object(path, max_bytes=_MAX_CONFIG_BYTES)
