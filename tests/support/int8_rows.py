"""Activations quantized to 8 bits in plain torch, as `src/api.h` defines them."""

from __future__ import annotations

import torch
from torch import Tensor

from gptoss_ray.kernels.native.packed import BLOCK


def int8_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return whole numbers [T, K] and scales [T, K/32] of finite rows, all float32."""
    grouped = x.float().view(len(x), -1, BLOCK)
    scales = grouped.abs().amax(-1) / 127
    divisors = torch.where(scales > 0, scales, torch.ones(()))
    return (grouped / divisors[..., None]).round().view_as(x), scales


def as_int8(x: Tensor) -> Tensor:
    """Return the float32 values that 8-bit codes of the rows stand for."""
    codes, scales = int8_rows(x)
    return (codes.view(len(x), -1, BLOCK) * scales[..., None]).view_as(codes)
