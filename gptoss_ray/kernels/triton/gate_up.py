"""The first matmul of the experts, with bias and activation, in one launch."""

from __future__ import annotations

import triton
import triton.language as tl

from gptoss_ray.kernels.triton.expert_sums import matrix_of_expert, rows_of_tile, sums_of_split
from gptoss_ray.kernels.triton.last_arrival import is_last


@triton.jit
def _activate(gate, up, bias_ptr, out_ptr, rows, mine, n, alpha, limit, WIDTH: tl.constexpr):
    """Add biases, round, activate, round, store."""
    exists = n < WIDTH
    gate += tl.load(bias_ptr + n, mask=exists, other=0.0)[:, None]
    up += tl.load(bias_ptr + WIDTH + n, mask=exists, other=0.0)[:, None]
    gate = tl.minimum(gate.to(tl.bfloat16).to(tl.float32), limit, propagate_nan=tl.PropagateNan.ALL)
    up = tl.minimum(up.to(tl.bfloat16).to(tl.float32), limit, propagate_nan=tl.PropagateNan.ALL)
    up = tl.maximum(up, -limit, propagate_nan=tl.PropagateNan.ALL)
    activated = gate * (1.0 / (1.0 + tl.exp(-alpha * gate))) * (up + 1.0)
    places = rows.to(tl.int64)[None, :] * WIDTH + n[:, None]
    tl.store(out_ptr + places, activated.to(tl.bfloat16), mask=mine[None, :] & exists[:, None])


@triton.jit
def gate_up_kernel(
    x_ptr,
    addresses_ptr,
    ids_ptr,
    tiles_ptr,
    order_ptr,
    out_ptr,
    parts_ptr,
    counters_ptr,
    alpha,
    limit,
    HIDDEN: tl.constexpr,
    WIDTH: tl.constexpr,
    ROWS_PER_INPUT: tl.constexpr,
    SPLITS: tl.constexpr,
    IN_PLACE: tl.constexpr,
    HAS_ORDER: tl.constexpr,
    IS_MXFP4: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_M: tl.constexpr,
):
    """Write swiglu(gate_up(x[row // ROWS_PER_INPUT])) of each row; grid (row tiles, outputs, splits or 1)."""
    expert, rows, mine = rows_of_tile(
        tl.program_id(0), ids_ptr, tiles_ptr, order_ptr, IN_PLACE, HAS_ORDER, BLOCK_M
    )
    if expert < 0:
        return
    values_ptr, scales_ptr, bias_ptr = matrix_of_expert(addresses_ptr, expert, 0, IS_MXFP4)
    n = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    near = n if WIDTH % BLOCK_N == 0 else tl.minimum(n, WIDTH - 1)
    inputs = rows // ROWS_PER_INPUT
    split = tl.program_id(2)
    gate, up = sums_of_split(
        split,
        x_ptr,
        inputs,
        mine,
        values_ptr,
        scales_ptr,
        near,
        near + WIDTH,
        HIDDEN,
        SPLITS,
        IS_MXFP4,
        True,
        BLOCK_N,
        BLOCK_M,
    )
    if IN_PLACE and SPLITS > 1:
        SIZE: tl.constexpr = BLOCK_N * BLOCK_M
        tile = tl.program_id(1) * tl.num_programs(0) + tl.program_id(0)
        parts = parts_ptr + tile.to(tl.int64) * (2 * SPLITS * SIZE)
        parts += tl.arange(0, BLOCK_N)[:, None] * BLOCK_M + tl.arange(0, BLOCK_M)[None, :]
        tl.store(parts + split * (2 * SIZE), gate)
        tl.store(parts + split * (2 * SIZE) + SIZE, up)
        if is_last(counters_ptr + tile, SPLITS):
            gate = tl.load(parts, cache_modifier=".cg")
            up = tl.load(parts + SIZE, cache_modifier=".cg")
            for other in tl.static_range(1, SPLITS):
                gate += tl.load(parts + other * (2 * SIZE), cache_modifier=".cg")
                up += tl.load(parts + other * (2 * SIZE) + SIZE, cache_modifier=".cg")
            _activate(gate, up, bias_ptr, out_ptr, rows, mine, n, alpha, limit, WIDTH)
    else:
        for other in range(1, SPLITS):
            next_gate, next_up = sums_of_split(
                other,
                x_ptr,
                inputs,
                mine,
                values_ptr,
                scales_ptr,
                near,
                near + WIDTH,
                HIDDEN,
                SPLITS,
                IS_MXFP4,
                True,
                BLOCK_N,
                BLOCK_M,
            )
            gate += next_gate
            up += next_up
        _activate(gate, up, bias_ptr, out_ptr, rows, mine, n, alpha, limit, WIDTH)
