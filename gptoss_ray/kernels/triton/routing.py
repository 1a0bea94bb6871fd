"""Routing: which rows of which expert a program multiplies, worked out on the device.

Rows of one expert lie one after the other in an *order*, experts in theirs, and are cut into row tiles. How
many tiles there are only the device knows; the host launches as many programs as there can be, and those
without a tile end at once.
"""

from __future__ import annotations

from dataclasses import dataclass

import triton
import triton.language as tl
from torch import Tensor

_CHUNK = 128


@dataclass(frozen=True)
class Routing:
    """Of R rows.

    Attributes:
        tiles: int32 [num_tiles, 3]: expert (-1: no tile), first row, and the end of its expert's, in order.
        order: int32 [R], the rows in order; None: they lie so.
        num_tiles: That there can be.
        rows_per_tile: At most.
    """

    tiles: Tensor
    order: Tensor | None
    num_tiles: int
    rows_per_tile: int


def max_tiles(num_rows: int, num_experts: int, rows_per_tile: int) -> int:
    """Return how many row tiles there are at most: every expert may have one that is not full."""
    num_busy = min(num_rows, num_experts)
    return num_busy + (num_rows - num_busy) // rows_per_tile


@triton.jit(do_not_specialize=["num_rows", "num_tiles"])
def _route_kernel(
    ids_ptr,
    ranks_ptr,
    counts_ptr,
    order_ptr,
    tiles_ptr,
    num_rows,
    num_tiles,
    NUM_EXPERTS: tl.constexpr,
    ALL_EXPERTS: tl.constexpr,
    ROWS_PER_TILE: tl.constexpr,
    CHUNK: tl.constexpr,
    HAS_ORDER: tl.constexpr,
):
    experts = tl.arange(0, ALL_EXPERTS)
    counts = tl.load(counts_ptr + experts, mask=experts < NUM_EXPERTS, other=0)
    here = tl.program_id(0) * CHUNK + tl.arange(0, CHUNK)
    if HAS_ORDER:
        ids = tl.load(ids_ptr + here, mask=here < num_rows, other=0)
        ranks = tl.load(ranks_ptr + here, mask=here < num_rows, other=0)
        before = tl.sum(tl.where(experts[None, :] < ids[:, None], counts[None, :], 0), axis=1)
        tl.store(order_ptr + before + ranks, here, mask=here < num_rows)

    expert_tiles = tl.cdiv(counts, ROWS_PER_TILE)
    is_before = here[:, None] >= tl.cumsum(expert_tiles, axis=0)[None, :]
    expert = tl.sum(is_before.to(tl.int32), axis=1)
    first_row = tl.sum(tl.where(is_before, counts[None, :], 0), axis=1)
    first_tile = tl.sum(tl.where(is_before, expert_tiles[None, :], 0), axis=1)
    end = first_row + tl.sum(tl.where(experts[None, :] == expert[:, None], counts[None, :], 0), axis=1)
    places = tiles_ptr + here * 3
    exists = here < num_tiles
    tl.store(places, tl.where(expert < NUM_EXPERTS, expert, -1), mask=exists)
    tl.store(places + 1, first_row + (here - first_tile) * ROWS_PER_TILE, mask=exists)
    tl.store(places + 2, end, mask=exists)


def route(
    counts: Tensor,
    num_rows: int,
    rows_per_tile: int,
    expert_ids: Tensor | None = None,
    ranks: Tensor | None = None,
) -> Routing:
    """Work out the tiles of R > 0 rows; one launch.

    Args:
        counts: int32 [E], rows of each expert; at most R together.
        num_rows: R.
        rows_per_tile: Of a full tile.
        expert_ids: int64 [R] in any shape; None: the rows lie in order already.
        ranks: int32 [R], beside them: the place of a row among its expert's.
    """
    num_experts = len(counts)
    num_tiles = max_tiles(num_rows, num_experts, rows_per_tile)
    tiles = counts.new_empty((num_tiles, 3))
    order = None if expert_ids is None else counts.new_empty(num_rows)
    _route_kernel[(triton.cdiv(max(num_rows, num_tiles), _CHUNK),)](
        expert_ids,
        ranks,
        counts,
        order,
        tiles,
        num_rows,
        num_tiles,
        NUM_EXPERTS=num_experts,
        ALL_EXPERTS=triton.next_power_of_2(num_experts),
        ROWS_PER_TILE=rows_per_tile,
        CHUNK=_CHUNK,
        HAS_ORDER=order is not None,
        num_warps=4,
    )
    return Routing(tiles, order, num_tiles, rows_per_tile)
