"""The demo model's shape: the gpt-oss architecture in miniature."""

from __future__ import annotations

from gptoss_ray.checkpoint.layout import canonical_shapes
from gptoss_ray.checkpoint.model_config import ModelConfig, alternating_layer_types
from gptoss_ray.harmony.encoding import HarmonyEncoding


def demo_config(encoding: HarmonyEncoding) -> ModelConfig:
    """The demo model's config; what is not named here is as published (window, YaRN, SwiGLU limits)."""
    return ModelConfig(
        vocab_size=encoding.vocab_size,
        hidden_size=256,
        intermediate_size=64,
        num_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=64,
        num_experts=16,
        num_experts_per_token=4,
        layer_types=alternating_layer_types(4),
        eos_token_ids=encoding.stop_token_ids,
        pad_token_id=encoding.end_of_text,
    )


def parameter_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Our tensor names (`checkpoint.layout`) to shapes, experts' weights as [experts, rows, columns].

    Rows of gate_up are all gates, then all ups, in training; the checkpoint alternates them.
    """
    return canonical_shapes(config.replace(expert_format="unquantized"))
