"""Sums of an expert's matmuls: which rows and weights a program meets, block by block of K.

A block of K is a tile's 128 inputs, four slices of 32: so a word of MXFP4 codes gives a value to each slice,
and values in bfloat16 are met in the same order.
"""

from __future__ import annotations

import triton
import triton.language as tl

from gptoss_ray.kernels.triton.mxfp4 import decode


@triton.jit
def rows_of_tile(
    tile,
    ids_ptr,
    tiles_ptr,
    order_ptr,
    IN_PLACE: tl.constexpr,
    HAS_ORDER: tl.constexpr,
    BLOCK_M: tl.constexpr,
):
    """Return the tile's expert (-1: there is no such tile), its rows [BLOCK_M], and which of them it has.

    In place, a tile is one row, and its expert that of `ids`.
    """
    lanes = tl.arange(0, BLOCK_M)
    if IN_PLACE:
        expert = tl.load(ids_ptr + tile).to(tl.int32)
        rows, mine = tile + lanes * 0, lanes == 0
    else:
        expert = tl.load(tiles_ptr + tile * 3)
        rows = tl.load(tiles_ptr + tile * 3 + 1) + lanes
        mine = rows < tl.load(tiles_ptr + tile * 3 + 2)
        if HAS_ORDER:
            rows = tl.load(order_ptr + rows, mask=mine, other=0)
    return expert, rows, mine


@triton.jit
def matrix_of_expert(addresses_ptr, expert, matrix: tl.constexpr, IS_MXFP4: tl.constexpr):
    """Return where values or codes, scales, and bias of an expert's gate_up (0) or down (1) lie."""
    addresses = addresses_ptr + (expert * 2 + matrix) * 3
    if IS_MXFP4:
        values = tl.load(addresses).to(tl.pointer_type(tl.int16))
    else:
        values = tl.load(addresses).to(tl.pointer_type(tl.bfloat16))
    scales = tl.load(addresses + 1).to(tl.pointer_type(tl.int32))
    bias = tl.load(addresses + 2).to(tl.pointer_type(tl.float32))
    return tl.multiple_of(values, 16), tl.multiple_of(scales, 16), tl.multiple_of(bias, 16)


@triton.jit
def _weights(values_ptr, scales_ptr, n, block, NUM_BLOCKS: tl.constexpr, IS_MXFP4: tl.constexpr):
    """Return the four slices bfloat16 [N, 32] of a block of the outputs n."""
    words = tl.arange(0, 32)
    if IS_MXFP4:
        tiles = n // 64 * NUM_BLOCKS + block
        codes = tl.load(values_ptr + (tiles * 2048 + n % 64 * 32)[:, None] + words[None, :])
        a, b, c, d = decode(codes, tl.load(scales_ptr + tiles * 64 + n % 64))
    else:
        values = values_ptr + (n * (NUM_BLOCKS * 128) + block * 128)[:, None] + words[None, :]
        a, b, c, d = tl.load(values), tl.load(values + 32), tl.load(values + 64), tl.load(values + 96)
    return a, b, c, d


@triton.jit
def _inputs(rows, mine, block, place: tl.constexpr, K: tl.constexpr):
    """Return a slice bfloat16 [32, M] of a block of the rows."""
    inputs = block * 128 + place * 32 + tl.arange(0, 32)
    inside = mine[:, None]
    if K % 128 != 0:
        inside = inside & (inputs < K)[None, :]
    return tl.trans(tl.load(rows + inputs[None, :], mask=inside, other=0.0))


@triton.jit
def sums_of_split(
    split,
    x_ptr,
    rows,
    mine,
    values_ptr,
    scales_ptr,
    n,
    n_beside,
    K: tl.constexpr,
    SPLITS: tl.constexpr,
    IS_MXFP4: tl.constexpr,
    IS_PAIR: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_M: tl.constexpr,
):
    """Return weight[n] · x[rows] over the split's blocks, float32 [N, M]; of a pair also that of n_beside."""
    NUM_BLOCKS: tl.constexpr = (K + 127) // 128
    x_rows = x_ptr + rows.to(tl.int64)[:, None] * K
    total = tl.zeros((BLOCK_N, BLOCK_M), dtype=tl.float32)
    beside = tl.zeros((BLOCK_N, BLOCK_M), dtype=tl.float32)
    for block in range(split * NUM_BLOCKS // SPLITS, (split + 1) * NUM_BLOCKS // SPLITS):
        first, second = _inputs(x_rows, mine, block, 0, K), _inputs(x_rows, mine, block, 1, K)
        third, fourth = _inputs(x_rows, mine, block, 2, K), _inputs(x_rows, mine, block, 3, K)
        a, b, c, d = _weights(values_ptr, scales_ptr, n, block, NUM_BLOCKS, IS_MXFP4)
        total = tl.dot(a, first, total)
        total = tl.dot(b, second, total)
        total = tl.dot(c, third, total)
        total = tl.dot(d, fourth, total)
        if IS_PAIR:
            a, b, c, d = _weights(values_ptr, scales_ptr, n_beside, block, NUM_BLOCKS, IS_MXFP4)
            beside = tl.dot(a, first, beside)
            beside = tl.dot(b, second, beside)
            beside = tl.dot(c, third, beside)
            beside = tl.dot(d, fourth, beside)
    return total, beside
