"""Combine: adds the experts' results to the residual stream, and norms the sum for the next layer."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from gptoss_ray.kernels.kernels import Norm
from gptoss_ray.kernels.triton.norm import NUM_WARPS, normed_row


@triton.jit
def _combine_kernel(
    hidden_ptr,
    slots_ptr,
    weights_ptr,
    norm_weight_ptr,
    normed_ptr,
    eps,
    HIDDEN: tl.constexpr,
    BLOCK: tl.constexpr,
    NUM_SLOTS: tl.constexpr,
    HAS_NORM: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    inside = columns < HIDDEN
    slots = slots_ptr + row * NUM_SLOTS * HIDDEN + columns
    weights = weights_ptr + row * NUM_SLOTS
    total = tl.load(slots, mask=inside, other=0.0).to(tl.float32) * tl.load(weights)
    for slot in tl.static_range(1, NUM_SLOTS):
        result = tl.load(slots + slot * HIDDEN, mask=inside, other=0.0).to(tl.float32)
        total += result * tl.load(weights + slot)
    places = row * HIDDEN + columns
    hidden = tl.load(hidden_ptr + places, mask=inside, other=0.0).to(tl.float32)
    rounded = (hidden + total).to(tl.bfloat16)
    tl.store(hidden_ptr + places, rounded, mask=inside)
    if HAS_NORM:
        normed = normed_row(rounded.to(tl.float32), norm_weight_ptr, eps, HIDDEN, BLOCK)
        tl.store(normed_ptr + places, normed.to(tl.bfloat16), mask=inside)


def combine(hidden: Tensor, slots: Tensor, weights: Tensor, norm: Norm | None = None) -> Tensor | None:
    """Add Σ_k weights[:, k] · slots[:, k] to hidden [T, H], in slot order, rounded once, written over it.

    slots [T, k, H], weights float32 [T, k]. Returns the sum's `rms_norm`, to the bit, where a norm is given.
    """
    num_rows, num_slots, width = slots.shape
    normed = None if norm is None else torch.empty_like(hidden)
    if num_rows:
        _combine_kernel[(num_rows,)](
            hidden,
            slots,
            weights,
            None if norm is None else norm.weight,
            normed,
            0.0 if norm is None else norm.eps,
            HIDDEN=width,
            BLOCK=triton.next_power_of_2(width),
            NUM_SLOTS=num_slots,
            HAS_NORM=norm is not None,
            num_warps=NUM_WARPS,
            enable_fp_fusion=False,
        )
    return normed
