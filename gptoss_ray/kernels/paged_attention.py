"""Attention of single query rows over the paged KV cache (torch reference).

Law 1: a row visits key blocks at fixed absolute positions, from the first block of its window (or 0)
to its own, whatever chunk or batch it comes in. One (row, key block) meeting is a *pair*: a small
matmul of fixed shape per KV head. Maxima and sums over a row's pairs are taken in block order; rows
are sorted by how many blocks they see, so that the pairs of step j are those of the first rows and no
row ever meets a block it does not need.

Shapes: R rows, P pairs, G query heads per KV head, D head_dim.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

# Bounds the float32 copies of gathered keys, values and scores; does not change any result.
_MAX_GATHERED_ELEMENTS = 1 << 24


@dataclass(frozen=True)
class AttentionPlan:
    """Which row meets which key block, shared by all layers of a kind (full or sliding) in a step.

    Attributes:
        rows: [R] rows of the batch, those that see most blocks first.
        pair_rows: [P] index into `rows`; pairs are ordered by step (the row's j-th block), then row.
        pair_blocks: [P] physical block id.
        pair_masks: float32 [P, 1, 1, block_size], 0 where the row sees the key and -inf elsewhere.
        num_rows_per_step: How many rows have a j-th block; they are the first ones.
    """

    rows: Tensor
    pair_rows: Tensor
    pair_blocks: Tensor
    pair_masks: Tensor
    num_rows_per_step: list[int]


def plan_attention(
    positions: Tensor,
    sequence_index: Tensor,
    block_table: Tensor,
    *,
    block_size: int,
    window: int | None,
    max_pairs: int,
) -> list[AttentionPlan]:
    """Plan the attention of all rows, in pieces of at most `max_pairs` pairs (but at least one row).

    positions [T], sequence_index [T] (row of block_table), block_table [S, B] by absolute block number.
    With a window a row sees its last `window` positions, itself included; None: all.
    """
    first_blocks = torch.zeros_like(positions)
    if window is not None:
        first_blocks = (positions - (window - 1)).clamp_(min=0) // block_size
    num_blocks, rows = (positions // block_size - first_blocks + 1).sort(descending=True, stable=True)
    plans = []
    for piece, counts in _pieces(rows, num_blocks, max_pairs):
        steps = torch.arange(int(counts[0]), device=counts.device)
        pair_steps, pair_rows = (steps[:, None] < counts).nonzero(as_tuple=True)
        batch_rows = piece[pair_rows]
        blocks = first_blocks[batch_rows] + pair_steps
        keys = (blocks * block_size)[:, None] + torch.arange(block_size, device=blocks.device)
        queries = positions[batch_rows][:, None]
        hidden = keys > queries
        if window is not None:
            hidden |= keys <= queries - window
        masks = torch.zeros(keys.shape, device=keys.device).masked_fill_(hidden, -torch.inf)
        plans.append(
            AttentionPlan(
                rows=piece,
                pair_rows=pair_rows,
                pair_blocks=block_table[sequence_index[batch_rows], blocks],
                pair_masks=masks[:, None, None],
                num_rows_per_step=(steps[:, None] < counts).sum(1).tolist(),
            )
        )
    return plans


def max_pairs_at_once(block_size: int, num_kv_heads: int, num_heads: int, head_dim: int) -> int:
    """Return how many pairs fit the memory set aside for gathered keys, values and scores."""
    per_pair = num_kv_heads * block_size * head_dim + num_heads * (block_size + head_dim)
    return max(1, _MAX_GATHERED_ELEMENTS // per_pair)


def paged_attention(
    q: Tensor, keys: Tensor, values: Tensor, plans: list[AttentionPlan], sinks: Tensor, out: Tensor
) -> None:
    """Attend from q float32 [T, heads, D] (unscaled) and write out [T, heads · D].

    keys, values [num_blocks, kv_heads, block_size, D]; sinks float32 [heads] are an extra logit per
    head that takes weight and gives no value. Scores are scaled by 1 / sqrt(D). float32 inside.
    """
    num_rows, num_heads, head_dim = q.shape
    kv_heads = keys.shape[1]
    grouped = q.mul(head_dim**-0.5).view(num_rows, kv_heads, num_heads // kv_heads, head_dim)
    for plan in plans:
        attended = _attend(
            grouped.index_select(0, plan.rows), keys, values, plan, sinks.view(kv_heads, -1, 1)
        )
        out.index_copy_(0, plan.rows, attended.flatten(1).to(out.dtype))


def _attend(q: Tensor, keys: Tensor, values: Tensor, plan: AttentionPlan, sinks: Tensor) -> Tensor:
    """Return [R, kv_heads, G, D] for the scaled q of the plan's rows [R, kv_heads, G, D]."""
    gathered_keys = keys.index_select(0, plan.pair_blocks).float().flatten(0, 1)
    scores = torch.bmm(q.index_select(0, plan.pair_rows).flatten(0, 1), gathered_keys.transpose(1, 2))
    scores = scores.view(-1, *q.shape[1:3], keys.shape[2]).add_(plan.pair_masks)

    maxima = sinks.expand(q.shape[0], *sinks.shape).clone()
    for num_rows, block_maxima in _steps(plan, scores.amax(-1, keepdim=True)):
        seen = maxima[:num_rows]
        torch.maximum(seen, block_maxima, out=seen)
    weights = scores.sub_(maxima.index_select(0, plan.pair_rows)).exp_()

    gathered_values = values.index_select(0, plan.pair_blocks).float().flatten(0, 1)
    weighted = torch.bmm(weights.flatten(0, 1), gathered_values).view(-1, *q.shape[1:])
    # The last column carries the sum of weights, so that one addition a step does for both.
    weighted = torch.cat((weighted, weights.sum(-1, keepdim=True)), dim=-1)
    total = torch.cat((torch.zeros_like(q), torch.exp(sinks - maxima)), dim=-1)
    for num_rows, block_sums in _steps(plan, weighted):
        total[:num_rows] += block_sums
    return total[..., :-1] / total[..., -1:]


def _steps(plan: AttentionPlan, per_pair: Tensor) -> Iterator[tuple[int, Tensor]]:
    """Yield for each step its number of rows and its slice of per_pair [P, ...]."""
    return zip(plan.num_rows_per_step, torch.split_with_sizes(per_pair, plan.num_rows_per_step), strict=True)


def _pieces(rows: Tensor, num_blocks: Tensor, max_pairs: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Cut rows (sorted by num_blocks, descending) into runs of at most max_pairs blocks in all."""
    start = 0
    while start < len(rows):
        num_rows = max(1, max_pairs // int(num_blocks[start]))
        yield rows[start : start + num_rows], num_blocks[start : start + num_rows]
        start += num_rows
