"""INT8 weights: 32 values of a row share one float16 scale.

The native kernels' packer (`native/src/pack.cpp`) gives the same codes and scales; tests hold both together.
"""

from __future__ import annotations

import torch
from torch import Tensor

BLOCK = 32
"""Values that share a scale."""

_LARGEST_CODE = 127
_LARGEST_SCALE = torch.finfo(torch.float16).max


def quantize(values: Tensor) -> tuple[Tensor, Tensor]:
    """Return codes int8 [N, K] and scales float16 [N, K/32] of values [N, K], rounded to bfloat16 first.

    A scale is a 127th of its block's largest magnitude, at most the largest float16. Codes are values over
    scales, rounded to the nearest, ties to even, and 0 where the scale is.

    Raises:
        ValueError: K is no multiple of 32, or a value is not finite.
    """
    num_rows, num_values = values.shape
    if num_values % BLOCK:
        raise ValueError(f"weight is {[num_rows, num_values]}; K must be a multiple of {BLOCK}")
    blocks = values.bfloat16().float().view(num_rows, -1, BLOCK)
    largest = blocks.abs().amax(-1)
    if not torch.isfinite(largest).all():
        raise ValueError("weight holds a value that is not finite, which int8 cannot hold")
    scales = (largest / _LARGEST_CODE).clamp(max=_LARGEST_SCALE).half()
    wide = scales.float()[..., None]
    codes = torch.where(wide > 0, blocks / wide, 0.0).round().clamp(-_LARGEST_CODE, _LARGEST_CODE)
    return codes.to(torch.int8).view_as(values), scales


def dequantize(codes: Tensor, scales: Tensor) -> Tensor:
    """Return the float32 values [N, K] that codes and scales stand for."""
    blocks = codes.float().view(*scales.shape, BLOCK)
    return (blocks * scales.float()[..., None]).view_as(codes)
