"""What transformers' GptOssForCausalLM holds on a card beside our engine, worked out before loading.

Weights, keys and values are exact; what a step takes besides is an assumption, of the leanest use: ways that
need more (eager attention over a long prompt) are tried on the card, and named where they fail.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from gptoss_ray.bench.engine_cases import DecodeCase
from gptoss_ray.bench.gpu_cases import CHUNK_TOKENS, GpuBench, Row
from gptoss_ray.bench.synthetic_folder import checkpoint_bytes
from gptoss_ray.checkpoint.model_config import ModelConfig
from gptoss_ray.errors import ConfigError
from gptoss_ray.planner import kv
from gptoss_ray.planner.memory import gigabytes

PeerExperts = Literal["bfloat16", "mxfp4"]
"""How transformers holds its experts: dequantised, or packed for the kernels of its hub."""

_BF16, _FLOAT32 = 2, 4


@dataclass(frozen=True)
class PeerMemory:
    """Bytes of transformers' model.

    Attributes:
        weight_bytes: Of all weights.
        cache_bytes: Keys and values of the largest case, one layer's twice: dynamic caches grow by copying.
        step_bytes: Rows of experts and logits of the largest step; an assumption.
    """

    weight_bytes: int
    cache_bytes: int
    step_bytes: int

    @property
    def total_bytes(self) -> int:
        """All of it."""
        return self.weight_bytes + self.cache_bytes + self.step_bytes


@dataclass(frozen=True)
class ComparisonPlan:
    """What is compared on one card, and what both sides hold there.

    Attributes:
        experts: Of transformers.
        cases: That fit.
        left_out: Cases that do not.
        ours_bytes: Of our engine with room for `cases`.
        theirs: Of transformers.
    """

    experts: PeerExperts
    cases: tuple[DecodeCase, ...]
    left_out: tuple[DecodeCase, ...]
    ours_bytes: int
    theirs: PeerMemory

    @property
    def total_bytes(self) -> int:
        """Of both sides."""
        return self.ours_bytes + self.theirs.total_bytes

    def row(self) -> Row:
        """Return the figures that are printed."""
        return {
            "experts": self.experts,
            "their_weights_gb": round(self.theirs.weight_bytes / 1e9, 2),
            "their_cache_gb": round(self.theirs.cache_bytes / 1e9, 2),
            "their_step_gb": round(self.theirs.step_bytes / 1e9, 2),
            "our_memory_gb": round(self.ours_bytes / 1e9, 2),
            "planned_memory_gb": round(self.total_bytes / 1e9, 2),
            "cases": len(self.cases),
            "cases_left_out": len(self.left_out),
        }


def peer_memory(
    model: ModelConfig,
    experts: PeerExperts,
    cases: Sequence[DecodeCase],
    prompts: Sequence[int],
    num_steps: int,
) -> PeerMemory:
    """Return what transformers holds for each of `cases` and each prompt alone.

    Args:
        model: The network.
        experts: How its experts are held.
        cases: Streams that decode, `num_steps` steps of each.
        prompts: Tokens of prompts, each read alone in chunks of `CHUNK_TOKENS`.
        num_steps: Decode steps of a case.
    """
    stored = model if experts == "mxfp4" else model.replace(expert_format="unquantized")
    caches = [case.num_streams * kv.read_bytes(model, case.context + num_steps, _BF16) for case in cases]
    caches += [kv.read_bytes(model, num_tokens, _BF16) for num_tokens in prompts]
    num_streams = max((case.num_streams for case in cases), default=1)
    num_rows = max(num_streams, min(CHUNK_TOKENS, max(prompts, default=1)))
    # Rows, their two projections with biases, and the steps of SwiGLU are tensors of their own.
    per_row = model.num_experts_per_token * (5 * model.hidden_size + 9 * model.intermediate_size) * _BF16
    return PeerMemory(
        weight_bytes=checkpoint_bytes(stored),
        cache_bytes=int(max(caches, default=0) * (1 + 2 / model.num_layers)),
        step_bytes=num_rows * per_row + 2 * num_streams * model.vocab_size * _FLOAT32,
    )


def plan_comparison(bench: GpuBench, experts: PeerExperts, free_bytes: int) -> ComparisonPlan:
    """Return what of `bench` can be compared where `free_bytes` are free.

    Raises:
        ConfigError: Both models do not fit together, or no case does and there are no prompts.
    """
    plan = _plan(bench, experts, ())
    if plan.total_bytes <= free_bytes:
        for case in bench.decode_cases():
            larger = _plan(bench, experts, (*plan.cases, case))
            plan = larger if larger.total_bytes <= free_bytes else plan
        if plan.cases or bench.prompts:
            return plan
        plan = _plan(bench, experts, (min(bench.decode_cases(), key=lambda case: case.num_streams),))
    remedies = ["fewer layers (--layers)", "shorter contexts and prompts"]
    if experts == "bfloat16":
        remedies.append("--transformers mxfp4")
    raise ConfigError(
        f"{bench.shape} of transformers takes {gigabytes(plan.theirs.total_bytes)} "
        f"(weights, {experts} experts: {gigabytes(plan.theirs.weight_bytes)}) beside the "
        f"{gigabytes(plan.ours_bytes)} of ours, but {gigabytes(free_bytes)} are free; "
        f"ask for {', for '.join(remedies)}, or take a larger card.",
        param="transformers",
    )


def _plan(bench: GpuBench, experts: PeerExperts, cases: tuple[DecodeCase, ...]) -> ComparisonPlan:
    return ComparisonPlan(
        experts=experts,
        cases=cases,
        left_out=tuple(case for case in bench.decode_cases() if case not in cases),
        ours_bytes=bench.memory(cases).total_bytes,
        theirs=peer_memory(bench.model, experts, cases, bench.prompts, bench.num_steps),
    )
