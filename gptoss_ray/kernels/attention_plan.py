"""AttentionPiece: which rows meet which blocks of the paged KV cache, in shapes that no batch changes.

A sequence is cut into *spans* of `SPAN_BLOCKS` blocks. With full attention a row meets the spans before its
own whole, and the blocks of its own span one by one; with a window it meets all blocks one by one. Both
depend on the row's position alone. The rows of a batch that lie in one span of one sequence (with a window:
in one block) are a *group*: they meet the same keys, but for a few that are masked, so that these are
gathered once for all of them.

Shapes: R rows, N groups, W rows of each group, P pairs (a group and a span, or a group and a block).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

SPAN_BLOCKS = 4


@dataclass(frozen=True)
class Pairs:
    """Which groups meet which blocks: all meetings of the first group by position, then the second's, ...

    Attributes:
        groups: [P] the pair's group.
        blocks: [P, 1 or SPAN_BLOCKS] physical block ids.
    """

    groups: Tensor
    blocks: Tensor


@dataclass(frozen=True)
class AttentionPiece:
    """What groups with equally many rows meet, shared by all layers of a kind (full or sliding) in a step.

    Attributes:
        rows: [W, N] rows of the batch, each group's by position.
        spans: Whole spans, which all rows of a group see; none with a window.
        blocks: Single blocks, behind the spans.
        hidden: bool [W, P, 1, 1, block_size] for `blocks`: the row does not see the key.
        unseen: bool [P, 1, block_size, 1] for `blocks`: no row of the group sees the key. Its slot may hold
            anything, even what is no number, left by whoever had the block before.
    """

    rows: Tensor
    spans: Pairs
    blocks: Pairs
    hidden: Tensor
    unseen: Tensor


def plan_attention(
    positions: Tensor,
    sequence_index: Tensor,
    block_table: Tensor,
    *,
    block_size: int,
    window: int | None,
    max_blocks: int,
) -> list[AttentionPiece]:
    """Plan the attention of all rows, in pieces that gather at most `max_blocks` (but at least a group's).

    positions [T], sequence_index [T] (row of block_table), block_table [S, B] by absolute block number.
    With a window a row sees its last `window` positions, itself included; None: all.
    """
    if len(positions) == 0:
        return []
    # Groups meet all blocks that one of their rows sees: with a window, smaller groups waste less.
    group_tokens = block_size * (SPAN_BLOCKS if window is None else 1)
    rows, num_rows = _groups(positions, sequence_index, group_tokens)
    starts = num_rows.cumsum(0) - num_rows
    last_blocks = positions[rows[starts + num_rows - 1]] // block_size
    first_blocks = torch.zeros_like(last_blocks)
    if window is not None:
        first_blocks = (positions[rows[starts]] - (window - 1)).clamp_(min=0) // block_size
    num_blocks = last_blocks - first_blocks + 1
    pieces = []
    for count in sorted(set(num_rows.tolist())):
        for groups in _pieces((num_rows == count).nonzero().squeeze(1), num_blocks, max_blocks):
            piece_rows = rows[starts[groups] + torch.arange(count, device=rows.device)[:, None]]
            table = block_table[sequence_index[piece_rows[0]]]
            first, last = first_blocks[groups], last_blocks[groups]
            pieces.append(_plan(piece_rows, positions, table, first, last, block_size, window))
    return pieces


def _groups(positions: Tensor, sequence_index: Tensor, group_tokens: int) -> tuple[Tensor, Tensor]:
    """Return the rows [T] group by group, each group's by position, and each group's number of rows [N]."""
    stride = (int(positions.max()) // group_tokens + 1) * group_tokens
    keys, rows = (sequence_index * stride + positions).sort()
    _, num_rows = torch.unique_consecutive(keys // group_tokens, return_counts=True)
    return rows, num_rows


def _plan(
    rows: Tensor,
    positions: Tensor,
    table: Tensor,
    first_blocks: Tensor,
    last_blocks: Tensor,
    block_size: int,
    window: int | None,
) -> AttentionPiece:
    """Plan rows [W, N], whose groups see the blocks from the first to the last [N] of table [N, B]."""
    # With a window every span is cut off somewhere, and whole ones would be mostly masked.
    num_spans = last_blocks // SPAN_BLOCKS if window is None else torch.zeros_like(last_blocks)
    spans, _ = _pairs(torch.zeros_like(num_spans), num_spans, table, SPAN_BLOCKS)
    first_single = torch.maximum(first_blocks, num_spans * SPAN_BLOCKS)
    blocks, numbers = _pairs(first_single, last_blocks - first_single + 1, table, 1)

    keys = numbers * block_size + torch.arange(block_size, device=table.device)
    queries = positions[rows][:, blocks.groups, None]
    hidden = keys > queries
    if window is not None:
        hidden |= keys <= queries - window
    unseen = hidden.all(0)
    return AttentionPiece(rows, spans, blocks, hidden[:, :, None, None], unseen[:, None, :, None])


def _pairs(first: Tensor, counts: Tensor, table: Tensor, width: int) -> tuple[Pairs, Tensor]:
    """Return the pairs of groups that meet `counts` [N] runs of `width` blocks from block `first` [N] on.

    Beside them the absolute numbers [P, width] of their blocks.
    """
    groups = torch.arange(len(counts), device=counts.device).repeat_interleave(counts)
    before = counts.cumsum(0) - counts
    runs = torch.arange(len(groups), device=counts.device) - before[groups]
    numbers = (first[groups] + runs * width)[:, None] + torch.arange(width, device=counts.device)
    return Pairs(groups, table[groups[:, None], numbers]), numbers


def _pieces(groups: Tensor, num_blocks: Tensor, max_blocks: int) -> Iterator[Tensor]:
    """Cut groups into runs that see at most max_blocks blocks in all (but at least one group)."""
    ordered = groups[num_blocks[groups].argsort(descending=True, stable=True)]
    start = 0
    while start < len(ordered):
        num_groups = max(1, max_blocks // int(num_blocks[ordered[start]]))
        yield ordered[start : start + num_groups]
        start += num_groups
