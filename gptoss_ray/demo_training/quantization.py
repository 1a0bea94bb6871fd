"""Rounding to MXFP4 and back, for training on the very weights that will be stored."""

from __future__ import annotations

import torch
from torch import Tensor

from gptoss_ray.demo_training import fused

BLOCK = 32
_MAX_EXPONENT = 2


def round_to_mxfp4(values: Tensor) -> Tensor:
    """The nearest e2m1 values under each block's shared power of two (OCP MX specification, section 6.3).

    The shared exponent is floor(log2(largest magnitude)) - 2, so what was rounded once stays as it is.
    """
    blocks = values.reshape(*values.shape[:-1], -1, BLOCK)
    largest = blocks.abs().amax(-1, keepdim=True).clamp(min=2.0**-100)
    scale = torch.exp2(torch.frexp(largest).exponent.float() - 1 - _MAX_EXPONENT)
    return fused.round_to_e2m1(blocks, scale).flatten(-2)
