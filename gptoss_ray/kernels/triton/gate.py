"""Gate: norms rows and chooses experts, in one launch."""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from gptoss_ray.kernels.kernels import Gate, Norm
from gptoss_ray.kernels.triton.last_arrival import ArrivalCounters, is_last
from gptoss_ray.kernels.triton.norm import NUM_WARPS, normed_row

_EXPERTS_AT_ONCE = 4
_MANY_ROWS = 64
# Rows of a program where there are many: it reads its experts' weights once for all of them.
_ROWS_AT_ONCE = 16


@triton.jit
def _choose(
    row,
    logits_ptr,
    weights_ptr,
    ids_ptr,
    ranks_ptr,
    counts_ptr,
    NUM_EXPERTS: tl.constexpr,
    ALL_EXPERTS: tl.constexpr,
    TOP_K: tl.constexpr,
    ALL_SLOTS: tl.constexpr,
    COUNTS: tl.constexpr,
):
    """Choose a row's experts, largest logit first, of equal ones the lowest; ids are valid in any case."""
    experts, slots = tl.arange(0, ALL_EXPERTS), tl.arange(0, ALL_SLOTS)
    logits = tl.load(
        logits_ptr + row * NUM_EXPERTS + experts,
        mask=experts < NUM_EXPERTS,
        other=float("-inf"),
        cache_modifier=".cg",
    )
    # What is no number is chosen last.
    logits = tl.where(logits == logits, logits, float("-inf"))  # noqa: PLR0124
    chosen = tl.full((ALL_SLOTS,), float("-inf"), dtype=tl.float32)
    for slot in tl.static_range(TOP_K):
        best, found = tl.max(logits, axis=0, return_indices=True)
        expert = tl.minimum(found, NUM_EXPERTS - 1)
        chosen = tl.where(slots == slot, best, chosen)
        logits = tl.where(experts == found, float("-inf"), logits)
        tl.store(ids_ptr + row * TOP_K + slot, expert.to(tl.int64))
        if COUNTS:
            rank = tl.atomic_add(counts_ptr + expert, 1, sem="relaxed")
            tl.store(ranks_ptr + row * TOP_K + slot, rank)
    shares = tl.exp(chosen - tl.max(chosen, axis=0))
    tl.store(weights_ptr + row * TOP_K + slots, shares / tl.sum(shares, axis=0), mask=slots < TOP_K)


@triton.jit(do_not_specialize=["num_rows", "rows_each"])
def _gate_kernel(
    x_ptr,
    norm_weight_ptr,
    weight_ptr,
    bias_ptr,
    normed_ptr,
    logits_ptr,
    weights_ptr,
    ids_ptr,
    ranks_ptr,
    counts_ptr,
    counters_ptr,
    eps,
    num_rows,
    rows_each,
    HIDDEN: tl.constexpr,
    BLOCK: tl.constexpr,
    NUM_EXPERTS: tl.constexpr,
    EXPERTS: tl.constexpr,
    ALL_EXPERTS: tl.constexpr,
    TOP_K: tl.constexpr,
    ALL_SLOTS: tl.constexpr,
    COUNTS: tl.constexpr,
):
    # The number of rows is no constant of the program, so that every row meets the same instructions.
    first = tl.program_id(0).to(tl.int64) * rows_each
    end = tl.minimum(first + rows_each, num_rows)
    columns = tl.arange(0, BLOCK)
    inside = columns < HIDDEN
    experts = tl.program_id(1) * EXPERTS + tl.arange(0, EXPERTS)
    weight = tl.load(
        weight_ptr + experts[:, None] * HIDDEN + columns[None, :],
        mask=(experts < NUM_EXPERTS)[:, None] & inside[None, :],
        other=0.0,
    )
    bias = tl.load(bias_ptr + experts, mask=experts < NUM_EXPERTS, other=0.0)
    for row in range(first, end):
        x = tl.load(x_ptr + row * HIDDEN + columns, mask=inside, other=0.0).to(tl.float32)
        normed = normed_row(x, norm_weight_ptr, eps, HIDDEN, BLOCK).to(tl.bfloat16)
        if tl.program_id(1) == 0:
            tl.store(normed_ptr + row * HIDDEN + columns, normed, mask=inside)
        logits = tl.sum(weight * normed.to(tl.float32)[None, :], axis=1) + bias
        tl.store(logits_ptr + row * NUM_EXPERTS + experts, logits, mask=experts < NUM_EXPERTS)
    if is_last(counters_ptr + tl.program_id(0), tl.num_programs(1)):
        for row in range(first, end):
            _choose(
                row,
                logits_ptr,
                weights_ptr,
                ids_ptr,
                ranks_ptr,
                counts_ptr,
                NUM_EXPERTS,
                ALL_EXPERTS,
                TOP_K,
                ALL_SLOTS,
                COUNTS,
            )


class Chosen(NamedTuple):
    """What the gate made of T rows.

    Attributes:
        normed: [T, H], rounded.
        weights: float32 [T, k], the softmax over the chosen.
        expert_ids: int64 [T, k], largest logit first.
        ranks: int32 [T, k], a row's place among its expert's, in no certain order; None: not asked.
        counts: int32 [E], rows of each expert, which was added to; None: not asked.
    """

    normed: Tensor
    weights: Tensor
    expert_ids: Tensor
    ranks: Tensor | None
    counts: Tensor | None


def choose_experts(
    x: Tensor, norm: Norm, gate: Gate, counters: ArrivalCounters, counts: Tensor | None = None
) -> Chosen:
    """Norm rows x [T, H] and choose their experts; counts int32 [E] also rank the rows of each expert."""
    num_rows, hidden = x.shape
    num_experts, num_slots = len(gate.weight), gate.experts_per_token
    normed = torch.empty_like(x)
    logits = x.new_empty((num_rows, num_experts), dtype=torch.float32)
    weights = x.new_empty((num_rows, num_slots), dtype=torch.float32)
    expert_ids = x.new_empty((num_rows, num_slots), dtype=torch.int64)
    ranks = None if counts is None else x.new_empty((num_rows, num_slots), dtype=torch.int32)
    if num_rows:
        rows_each = 1 if num_rows <= _MANY_ROWS else _ROWS_AT_ONCE
        num_groups = triton.cdiv(num_rows, rows_each)
        _gate_kernel[(num_groups, triton.cdiv(num_experts, _EXPERTS_AT_ONCE))](
            x,
            norm.weight,
            gate.weight,
            gate.bias,
            normed,
            logits,
            weights,
            expert_ids,
            ranks,
            counts,
            counters.of(num_groups),
            norm.eps,
            num_rows,
            rows_each,
            HIDDEN=hidden,
            BLOCK=triton.next_power_of_2(hidden),
            NUM_EXPERTS=num_experts,
            EXPERTS=_EXPERTS_AT_ONCE,
            ALL_EXPERTS=triton.next_power_of_2(num_experts),
            TOP_K=num_slots,
            ALL_SLOTS=triton.next_power_of_2(num_slots),
            COUNTS=counts is not None,
            num_warps=NUM_WARPS,
            enable_fp_fusion=False,
        )
    return Chosen(normed, weights, expert_ids, ranks, counts)
