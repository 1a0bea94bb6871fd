"""Weights in the three formats of the native kernels, each with the values that it stands for."""

from __future__ import annotations

import torch
from torch import Tensor

from gptoss_ray.checkpoint import mxfp4
from gptoss_ray.kernels import int8
from gptoss_ray.kernels.kernels import Mxfp4, StoredMatrix
from gptoss_ray.kernels.native.packed import Format


def random_weight(weight_format: Format, n: int, k: int) -> tuple[StoredMatrix, Tensor]:
    """Return what `NativeKernels.pack` takes, and the float32 values [n, k] that it stands for."""
    values = torch.randn(n, k).bfloat16()
    if weight_format is Format.MXFP4:
        blocks, scales = mxfp4.quantize(values)
        return Mxfp4(blocks, scales), mxfp4.dequantize(blocks, scales, torch.float32)
    if weight_format is Format.INT8:
        return values, int8.dequantize(*int8.quantize(values))
    return values, values.float()
