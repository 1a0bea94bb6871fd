"""Rotary position embedding with YaRN scaling.

Source: Peng et al., "YaRN: Efficient Context Window Extension of Large Language Models" (2023),
sections 3.2 (NTK-by-parts) and 3.4 (attention temperature); constants from the checkpoint.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from gptoss_ray.checkpoint.model_config import ModelConfig


class RotaryEmbedding:
    """cos and sin of every position, times the YaRN concentration; float32 [max_context, head_dim / 2].

    The tables are made in one go when the model loads, so that a position's bits never depend on a batch.
    """

    def __init__(self, config: ModelConfig, device: torch.device | str = "cpu") -> None:
        positions = torch.arange(config.max_context, dtype=torch.float32)
        angles = positions[:, None] * inverse_frequencies(config)
        concentration = yarn_concentration(config.rope_scaling_factor)
        # By the host on every device: a GPU's functions round far angles otherwise.
        self._cos = angles.cos().mul_(concentration).to(device)
        self._sin = angles.sin_().mul_(concentration).to(device)

    def rows(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Return cos and sin [T, head_dim / 2] of positions int64 [T]."""
        return self._cos[positions], self._sin[positions]


def yarn_concentration(scaling_factor: float) -> float:
    """Return 0.1 · ln(scaling factor) + 1, which sharpens attention as a factor on cos and sin."""
    return 0.1 * math.log(scaling_factor) + 1.0 if scaling_factor > 1 else 1.0


def inverse_frequencies(config: ModelConfig) -> Tensor:
    """Return radians per position, float32 [head_dim / 2], interpolated by parts.

    Pairs that turn more than `rope_beta_fast` times within the original context keep their frequency,
    those that turn less than `rope_beta_slow` times are slowed by the scaling factor, and between the
    two (bounds not rounded) the mix is linear.
    """
    num_pairs = config.head_dim // 2
    exponents = torch.arange(0, config.head_dim, 2, dtype=torch.float32) / config.head_dim
    periods = config.rope_theta**exponents
    low = max(_pair_that_turns(config.rope_beta_fast, config), 0.0)
    high = min(_pair_that_turns(config.rope_beta_slow, config), config.head_dim - 1.0)
    ramp = (torch.arange(num_pairs, dtype=torch.float32) - low) / (high - low if high != low else 0.001)
    kept = 1.0 - ramp.clamp(0, 1)
    # In this order, for the bits of the published implementations: far positions multiply a last-bit error.
    return (1.0 / (config.rope_scaling_factor * periods)) * (1.0 - kept) + (1.0 / periods) * kept


def _pair_that_turns(num_turns: float, config: ModelConfig) -> float:
    """Return the (fractional) pair index that makes `num_turns` turns within the original context."""
    turns = config.rope_original_context / (num_turns * 2 * math.pi)
    return config.head_dim * math.log(turns) / (2 * math.log(config.rope_theta))
