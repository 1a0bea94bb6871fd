"""The second matmul of the experts, with bias, in one launch."""

from __future__ import annotations

import triton
import triton.language as tl

from gptoss_ray.kernels.triton.expert_sums import matrix_of_expert, rows_of_tile, sums_of_split
from gptoss_ray.kernels.triton.last_arrival import is_last


@triton.jit
def _finish(total, bias_ptr, out_ptr, rows, mine, n, HIDDEN: tl.constexpr):
    """Add the bias, round, store."""
    exists = n < HIDDEN
    total += tl.load(bias_ptr + n, mask=exists, other=0.0)[:, None]
    places = rows.to(tl.int64)[None, :] * HIDDEN + n[:, None]
    tl.store(out_ptr + places, total.to(tl.bfloat16), mask=mine[None, :] & exists[:, None])


@triton.jit
def down_kernel(
    x_ptr,
    addresses_ptr,
    ids_ptr,
    tiles_ptr,
    order_ptr,
    out_ptr,
    parts_ptr,
    counters_ptr,
    HIDDEN: tl.constexpr,
    WIDTH: tl.constexpr,
    SPLITS: tl.constexpr,
    IN_PLACE: tl.constexpr,
    HAS_ORDER: tl.constexpr,
    IS_MXFP4: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_M: tl.constexpr,
):
    """Write down(x[row]) of each row; grid (row tiles, outputs, splits or 1)."""
    expert, rows, mine = rows_of_tile(
        tl.program_id(0), ids_ptr, tiles_ptr, order_ptr, IN_PLACE, HAS_ORDER, BLOCK_M
    )
    if expert < 0:
        return
    values_ptr, scales_ptr, bias_ptr = matrix_of_expert(addresses_ptr, expert, 1, IS_MXFP4)
    n = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    near = n if HIDDEN % BLOCK_N == 0 else tl.minimum(n, HIDDEN - 1)
    split = tl.program_id(2)
    total, _ = sums_of_split(
        split,
        x_ptr,
        rows,
        mine,
        values_ptr,
        scales_ptr,
        near,
        near,
        WIDTH,
        SPLITS,
        IS_MXFP4,
        False,
        BLOCK_N,
        BLOCK_M,
    )
    if IN_PLACE and SPLITS > 1:
        SIZE: tl.constexpr = BLOCK_N * BLOCK_M
        tile = tl.program_id(1) * tl.num_programs(0) + tl.program_id(0)
        parts = parts_ptr + tile.to(tl.int64) * (SPLITS * SIZE)
        parts += tl.arange(0, BLOCK_N)[:, None] * BLOCK_M + tl.arange(0, BLOCK_M)[None, :]
        tl.store(parts + split * SIZE, total)
        if is_last(counters_ptr + tile, SPLITS):
            total = tl.load(parts, cache_modifier=".cg")
            for other in tl.static_range(1, SPLITS):
                total += tl.load(parts + other * SIZE, cache_modifier=".cg")
            _finish(total, bias_ptr, out_ptr, rows, mine, n, HIDDEN)
    else:
        for other in range(1, SPLITS):
            next_total, _ = sums_of_split(
                other,
                x_ptr,
                rows,
                mine,
                values_ptr,
                scales_ptr,
                near,
                near,
                WIDTH,
                SPLITS,
                IS_MXFP4,
                False,
                BLOCK_N,
                BLOCK_M,
            )
            total += next_total
        _finish(total, bias_ptr, out_ptr, rows, mine, n, HIDDEN)
