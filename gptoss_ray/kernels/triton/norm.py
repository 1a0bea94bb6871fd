"""RMS norm of rows."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from gptoss_ray.kernels.kernels import Norm

NUM_WARPS = 4
"""Of every kernel that norms: the order in which a row's squares are added depends on it."""


@triton.jit
def normed_row(row, weight_ptr, eps, HIDDEN: tl.constexpr, BLOCK: tl.constexpr):
    """Return weight · row / sqrt(mean(row²) + eps) in float32, of a row float32 [BLOCK] with zeros behind."""
    columns = tl.arange(0, BLOCK)
    scale = 1.0 / tl.sqrt_rn(tl.sum(row * row, axis=0) / HIDDEN + eps)
    weight = tl.load(weight_ptr + columns, mask=columns < HIDDEN, other=0.0)
    return weight * (row * scale)


@triton.jit
def _norm_kernel(x_ptr, weight_ptr, out_ptr, eps, HIDDEN: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    inside = columns < HIDDEN
    x = tl.load(x_ptr + row * HIDDEN + columns, mask=inside, other=0.0).to(tl.float32)
    normed = normed_row(x, weight_ptr, eps, HIDDEN, BLOCK)
    tl.store(out_ptr + row * HIDDEN + columns, normed.to(tl.bfloat16), mask=inside)


def rms_norm(x: Tensor, norm: Norm) -> Tensor:
    """Return the normed rows of x [T, H], rounded."""
    num_rows, hidden = x.shape
    out = torch.empty_like(x)
    if num_rows:
        _norm_kernel[(num_rows,)](
            x,
            norm.weight,
            out,
            norm.eps,
            HIDDEN=hidden,
            BLOCK=triton.next_power_of_2(hidden),
            num_warps=NUM_WARPS,
            enable_fp_fusion=False,
        )
    return out
