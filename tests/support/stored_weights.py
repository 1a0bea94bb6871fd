"""Weights in the three formats of the native kernels, each with the values that it stands for."""

from __future__ import annotations

import torch
from torch import Tensor

from gptoss_ray.checkpoint import mxfp4
from gptoss_ray.kernels.kernels import Mxfp4, StoredMatrix
from gptoss_ray.kernels.native.packed import BLOCK, Format


def random_weight(weight_format: Format, n: int, k: int) -> tuple[StoredMatrix, Tensor]:
    """Return what `NativeKernels.pack` takes, and the float32 values [n, k] that it stands for."""
    values = torch.randn(n, k).bfloat16()
    if weight_format is Format.MXFP4:
        blocks, scales = mxfp4.quantize(values)
        return Mxfp4(blocks, scales), mxfp4.dequantize(blocks, scales, torch.float32)
    if weight_format is Format.INT8:
        codes, scales = int8_codes(values)
        return values, (codes.view(n, -1, BLOCK) * scales.float()[..., None]).view(n, k)
    return values, values.float()


def int8_codes(values: Tensor) -> tuple[Tensor, Tensor]:
    """Return codes int8 [N, K] and scales float16 [N, K/32] as `src/api.h` defines them."""
    grouped = values.float().view(values.shape[0], -1, BLOCK)
    scales = (grouped.abs().amax(-1) / 127).half()
    wide = scales.float()[..., None]
    ratios = torch.where(wide > 0, grouped / wide, torch.zeros(()))
    return ratios.round().clamp(-127, 127).to(torch.int8).view_as(values), scales
