"""The attention kernel: decode rows, prompt chunks and drafts alike, over the paged KV cache.

Law 1: what a row computes follows from its position alone.

- A tile is a run of rows of one sequence within ROWS positions aligned to a multiple of ROWS, times the
  query heads of one KV head: LANES lanes, the M of every matmul, however many of them live. So a row goes
  through the same instructions alone and in a chunk, and its tile mates see the same blocks of KEYS keys.
- Keys come in splits of SPLIT at absolute positions. Each split starts afresh; its result joins the row's
  total by `_join`, split after split, from the sink on. Whether one program goes through all splits, or each
  has a program of its own whose float32 result waits in memory until the last joins them, the sums are the
  same ones.
- Products and sums that a compiler might contract in two ways are written as `fma`.

Programs take work items from a list that lies on the device (`attention_items.py`), so the grid depends on
the device alone, and a captured graph fits every context.
"""

from __future__ import annotations

import triton
import triton.language as tl

from gptoss_ray.kernels.triton.last_arrival import is_last


@triton.jit
def _join(best, weight, total, part_best, part_weight, part):
    """Add a split's result to the total of those before it: [LANES], [LANES], [LANES, D] each."""
    new_best = tl.maximum(best, part_best)
    kept, added = tl.exp2(best - new_best), tl.exp2(part_best - new_best)
    weight = tl.fma(part_weight, added, weight * kept)
    total = tl.fma(part, added[:, None], total * kept[:, None])
    return new_best, weight, total


@triton.jit
def _meet(
    q,
    best,
    weight,
    total,
    start,
    lane_positions,
    first,
    last,
    table,
    keys,
    values,
    head,
    scale,
    KV_HEADS: tl.constexpr,
    D: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    WINDOW: tl.constexpr,
    KEYS: tl.constexpr,
    IS_EDGE: tl.constexpr,
):
    """Meet the KEYS keys from `start` on; at an edge some lanes do not see some of them.

    Keys that no row of the tile sees are not read: their slots, and their blocks, may be anybody's.
    """
    key = start + tl.arange(0, KEYS)
    dims = tl.arange(0, D)
    if IS_EDGE:
        is_read = key <= last
        if WINDOW > 0:
            is_read = is_read & (key > first - WINDOW)
        block = tl.load(table + key // BLOCK_SIZE, mask=is_read, other=0)
    else:
        block = tl.load(table + key // BLOCK_SIZE)
    slot = (block.to(tl.int64) * KV_HEADS + head) * BLOCK_SIZE + key % BLOCK_SIZE
    at = slot[:, None] * D + dims[None, :]
    if IS_EDGE:
        k = tl.load(keys + at, mask=is_read[:, None], other=0.0)
        v = tl.load(values + at, mask=is_read[:, None], other=0.0)
    else:
        k = tl.load(keys + at)
        v = tl.load(values + at)
    # An 8-bit cache is exact in bfloat16.
    k, v = k.to(tl.bfloat16), v.to(tl.bfloat16)

    scores = tl.dot(q, tl.trans(k), out_dtype=tl.float32)
    if IS_EDGE:
        is_seen = key[None, :] <= lane_positions[:, None]
        if WINDOW > 0:
            is_seen = is_seen & (key[None, :] > lane_positions[:, None] - WINDOW)
        scores = tl.where(is_seen, scores, float("-inf"))
    new_best = tl.maximum(best, tl.max(scores, 1) * scale)
    if IS_EDGE:  # a lane that has seen no key yet keeps its zeros
        base = tl.where(new_best == float("-inf"), 0.0, new_best)
    else:
        base = new_best
    weights = tl.exp2(tl.fma(scores, scale, -base[:, None]))
    kept = tl.exp2(best - base)
    weight = tl.fma(weight, kept, tl.sum(weights, 1))
    total = tl.dot(weights.to(tl.bfloat16), v, total * kept[:, None], out_dtype=tl.float32)
    return new_best, weight, total


@triton.jit
def attention_kernel(
    q,
    keys,
    values,
    out,
    sinks,
    positions,
    sequence_index,
    table,
    items,
    counts,
    parts,
    part_weights,
    arrivals,
    table_stride,
    scale,
    NUM_HEADS: tl.constexpr,
    KV_HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    D: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    WINDOW: tl.constexpr,
    ROWS: tl.constexpr,
    LANES: tl.constexpr,
    KEYS: tl.constexpr,
    SPLIT: tl.constexpr,
    STAGES: tl.constexpr,
):
    """Attend with rotated q, after k and v of all rows are in the cache.

    q and out [T, NUM_HEADS · D], keys and values [num_blocks, KV_HEADS, BLOCK_SIZE, D], sinks [NUM_HEADS],
    positions and sequence_index [T], table [S, table_stride], items [I, 4] and counts [2] of
    `list_items_kernel`, parts [slots, NUM_HEADS, D] and part_weights [slots, NUM_HEADS, 2] unset, arrivals
    [slots, KV_HEADS] all 0, and left so. `scale` holds the factor log2(e) too; WINDOW 0 is none.
    """
    lanes = tl.arange(0, LANES)
    dims = tl.arange(0, D)
    lane_rows = lanes // (LANES // ROWS)
    lane_heads = lanes % (LANES // ROWS)
    num_items = tl.load(counts)
    for work in range(tl.program_id(0), num_items * KV_HEADS, tl.num_programs(0)):
        item = items + (work // KV_HEADS) * 4
        head = work % KV_HEADS
        row, num_rows = tl.load(item), tl.load(item + 1)
        split, slot = tl.load(item + 2), tl.load(item + 3)
        first = tl.load(positions + row).to(tl.int32)
        last = first + num_rows - 1
        lane_positions = first + lane_rows
        is_live = (lane_rows < num_rows) & (lane_heads < GROUP)
        lane_heads_at = head * GROUP + lane_heads
        sequence_table = table + tl.load(sequence_index + row) * table_stride

        lane_at = (row + lane_rows).to(tl.int64) * (NUM_HEADS * D) + lane_heads_at * D
        lane_at = lane_at[:, None] + dims[None, :]
        lane_q = tl.load(q + lane_at, mask=is_live[:, None], other=0.0)
        sink = tl.load(sinks + lane_heads_at, mask=lane_heads < GROUP, other=0.0) * 1.4426950408889634

        best, weight = sink, tl.full([LANES], 1.0, tl.float32)
        total = tl.zeros([LANES, D], tl.float32)
        edge = first // KEYS * KEYS  # the block of keys that the tile itself lies in
        num_splits = first // SPLIT + 1
        is_part = split >= 0
        begin = tl.where(is_part, split, 0)
        end = tl.where(is_part, split + 1, num_splits)
        if WINDOW > 0:  # whose few keys are one split
            is_part, begin, end = False, 0, 1
        for number in range(begin, end):
            part_best = tl.full([LANES], float("-inf"), tl.float32)
            part_weight = tl.zeros([LANES], tl.float32)
            part = tl.zeros([LANES, D], tl.float32)
            if WINDOW > 0:
                inner_end = tl.maximum(first - (WINDOW - 1), 0) // KEYS * KEYS
                outer_end = edge + KEYS
            else:
                inner_end = tl.minimum((number + 1) * SPLIT, edge)
                outer_end = tl.minimum((number + 1) * SPLIT, edge + KEYS)
                for start in tl.range(number * SPLIT, inner_end, KEYS, num_stages=STAGES):
                    part_best, part_weight, part = _meet(
                        lane_q, part_best, part_weight, part, start, lane_positions, first, last,
                        sequence_table, keys, values, head, scale, KV_HEADS, D, BLOCK_SIZE, WINDOW, KEYS,
                        False,
                    )  # fmt: skip
            for start in tl.range(inner_end, outer_end, KEYS, num_stages=STAGES if WINDOW > 0 else 1):
                part_best, part_weight, part = _meet(
                    lane_q, part_best, part_weight, part, start, lane_positions, first, last,
                    sequence_table, keys, values, head, scale, KV_HEADS, D, BLOCK_SIZE, WINDOW, KEYS, True,
                )  # fmt: skip
            if is_part:
                part_at = (slot + number * num_rows + lane_rows).to(tl.int64) * NUM_HEADS + lane_heads_at
                tl.store(parts + part_at[:, None] * D + dims[None, :], part, mask=is_live[:, None])
                tl.store(part_weights + part_at * 2, part_best, mask=is_live)
                tl.store(part_weights + part_at * 2 + 1, part_weight, mask=is_live)
            best, weight, total = _join(best, weight, total, part_best, part_weight, part)

        is_complete = True
        if is_part:
            is_complete = is_last(arrivals + slot * KV_HEADS + head, num_splits)
            if is_complete:
                best, weight = sink, tl.full([LANES], 1.0, tl.float32)
                total = tl.zeros([LANES, D], tl.float32)
                for number in range(0, num_splits):
                    part_at = (slot + number * num_rows + lane_rows).to(tl.int64) * NUM_HEADS + lane_heads_at
                    weight_at = part_weights + part_at * 2
                    part_at = part_at[:, None] * D + dims[None, :]
                    part = tl.load(parts + part_at, is_live[:, None], 0.0, cache_modifier=".cg")
                    part_best = tl.load(weight_at, is_live, 0.0, cache_modifier=".cg")
                    part_weight = tl.load(weight_at + 1, is_live, 0.0, cache_modifier=".cg")
                    best, weight, total = _join(best, weight, total, part_best, part_weight, part)
        if is_complete:
            attended = total / weight[:, None] + 0.0  # no negative zeros
            tl.store(out + lane_at, attended.to(out.dtype.element_ty), mask=is_live[:, None])
