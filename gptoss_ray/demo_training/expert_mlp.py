"""The experts of one layer, forward and backward, over rows sorted by expert.

Autograd through 16 slices would write each gradient 16 times; by hand each matmul writes its own rows.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from gptoss_ray.demo_training import fused

ROW_TILE = 128
"""Rows of an expert come in whole tiles: oneDNN compiles a kernel for every new number of rows."""


class ExpertMlp(torch.autograd.Function):
    """`sum_k weight[t, k] · expert[ids[t, k]](x[t])` with gpt-oss's clamped SwiGLU."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        expert_ids: Tensor,
        expert_weights: Tensor,
        gate_up: Tensor,
        gate_up_bias: Tensor,
        down: Tensor,
        down_bias: Tensor,
        alpha: float,
        limit: float,
    ) -> Tensor:
        """x [T, H], ids and weights [T, k], gate_up [E, 2I, H] (gates, then ups), down [E, H, I] → [T, H]."""
        num_tokens, k = expert_ids.shape
        source, place, bounds = _sort_by_expert(expert_ids, gate_up.shape[0])
        rows = F.pad(x, (0, 0, 0, 1)).index_select(0, source // k)
        hidden = _grouped(rows, gate_up, gate_up_bias, bounds)
        activated = fused.swiglu(hidden, alpha, limit)
        slots = _grouped(activated, down, down_bias, bounds)
        by_token = slots.index_select(0, place).view(num_tokens, k, -1)
        ctx.save_for_backward(rows, hidden, activated, by_token, expert_weights, source, place, gate_up, down)
        ctx.bounds, ctx.alpha, ctx.limit = bounds, alpha, limit
        return fused.weighted_sum(by_token, expert_weights)

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of x, the expert weights and the four parameter tensors."""
        rows, hidden, activated, by_token, expert_weights, source, place, gate_up, down = ctx.saved_tensors
        num_tokens, k = expert_weights.shape
        grad_by_token, grad_expert_weights = fused.weighted_sum_gradients(
            by_token, expert_weights, grad_output
        )
        grad_slots = F.pad(grad_by_token.view(num_tokens * k, -1), (0, 0, 0, 1)).index_select(0, source)
        grad_activated, grad_down, grad_down_bias = _grouped_gradients(
            grad_slots, activated, down, ctx.bounds
        )
        grad_hidden = fused.swiglu_gradient(hidden, grad_activated, ctx.alpha, ctx.limit)
        grad_rows, grad_gate_up, grad_gate_up_bias = _grouped_gradients(
            grad_hidden, rows, gate_up, ctx.bounds
        )
        grad_x = fused.slot_sum(grad_rows.index_select(0, place).view(num_tokens, k, -1))
        return (
            grad_x,
            None,
            grad_expert_weights,
            grad_gate_up,
            grad_gate_up_bias,
            grad_down,
            grad_down_bias,
            None,
            None,
        )


def _sort_by_expert(expert_ids: Tensor, num_experts: int) -> tuple[Tensor, Tensor, list[tuple[int, int]]]:
    """Sort slots by expert, each expert's rows filled up to whole tiles with rows of no slot.

    Returns:
        source: [R] the slot (index into the flattened ids) of each row; the number of slots where there is
        none. place: [T·k] the row of each slot. bounds: First row and end of each expert.
    """
    experts = expert_ids.flatten()
    order = torch.argsort(experts, stable=True)
    counts = torch.bincount(experts, minlength=num_experts)
    tiles = (counts + ROW_TILE - 1) // ROW_TILE * ROW_TILE
    ends = tiles.cumsum(0)
    shift = (ends - tiles) - (counts.cumsum(0) - counts)
    row_of_sorted = torch.arange(len(order)) + shift.index_select(0, experts.index_select(0, order))
    place = torch.empty_like(order).scatter_(0, order, row_of_sorted)
    row_ends = ends.tolist()
    source = torch.full((row_ends[-1],), len(order)).scatter_(0, row_of_sorted, order)
    return source, place, list(zip([0, *row_ends[:-1]], row_ends, strict=True))


def _grouped(rows: Tensor, weight: Tensor, bias: Tensor, bounds: list[tuple[int, int]]) -> Tensor:
    """rows [R, K] sorted by expert, weight [E, N, K], bias [E, N] → [R, N]."""
    out = rows.new_empty(len(rows), weight.shape[1])
    for expert, (begin, end) in enumerate(bounds):
        torch.addmm(bias[expert], rows[begin:end], weight[expert].T, out=out[begin:end])
    return out


def _grouped_gradients(
    grad_out: Tensor, rows: Tensor, weight: Tensor, bounds: list[tuple[int, int]]
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of `_grouped` by rows, weight and bias."""
    grad_rows = torch.empty_like(rows)
    grad_weight, grad_bias = torch.zeros_like(weight), weight.new_zeros(weight.shape[:2])
    for expert, (begin, end) in enumerate(bounds):
        if begin < end:
            torch.mm(grad_out[begin:end], weight[expert], out=grad_rows[begin:end])
            torch.mm(grad_out[begin:end].T, rows[begin:end], out=grad_weight[expert])
            grad_bias[expert] = grad_out[begin:end].sum(0)
    return grad_rows, grad_weight, grad_bias
