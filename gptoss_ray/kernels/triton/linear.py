"""Dense matmul: rows times a weight, with bias and residual."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from gptoss_ray.kernels import int8
from gptoss_ray.kernels.triton import blas
from gptoss_ray.kernels.triton.blas import tile_of_product
from gptoss_ray.kernels.triton.last_arrival import ArrivalCounters, is_last
from gptoss_ray.kernels.triton.matrix import TritonMatrix
from gptoss_ray.kernels.triton.tile_plan import TilePlan
from gptoss_ray.kernels.triton.tile_table import TileTable
from gptoss_ray.kernels.triton.tiles import Tile

_INT8_BLOCK = tl.constexpr(int8.BLOCK)


@triton.jit
def _sum_of_split(
    split,
    x_ptr,
    weight_ptr,
    scales_ptr,
    n,
    m,
    num_rows,
    N: tl.constexpr,
    K: tl.constexpr,
    STRIDE: tl.constexpr,
    SPLITS: tl.constexpr,
    IS_INT8: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_M: tl.constexpr,
):
    """Return weight[n] · x[m] over the split's blocks of K: float32 [BLOCK_N, BLOCK_M].

    Weights in 8 bits are met in the same order, each rounded to bfloat16: with the bits of such weights.
    """
    tl.static_assert(BLOCK_K == 2 * _INT8_BLOCK, "a block of K has the two scales of an int32")
    NUM_BLOCKS: tl.constexpr = (K + BLOCK_K - 1) // BLOCK_K
    WIDTH: tl.constexpr = _INT8_BLOCK if IS_INT8 else BLOCK_K
    columns = tl.arange(0, WIDTH)
    weights = weight_ptr + n.to(tl.int64)[:, None] * STRIDE + columns[None, :]
    rows = x_ptr + m.to(tl.int64)[:, None] * K + columns[None, :]
    total = tl.zeros((BLOCK_N, BLOCK_M), dtype=tl.float32)
    for block in range(split * NUM_BLOCKS // SPLITS, (split + 1) * NUM_BLOCKS // SPLITS):
        if IS_INT8:
            scales = tl.load(scales_ptr + block * N + n)
        for place in tl.static_range(0, BLOCK_K, WIDTH):
            first = block * BLOCK_K + place
            inside = (m < num_rows)[:, None]
            if K % BLOCK_K != 0:
                inside = inside & (first + columns < K)[None, :]
            weight = tl.load(weights + first)
            if IS_INT8:
                scale = (scales >> place // WIDTH * 16).to(tl.int16).to(tl.float16, bitcast=True)
                weight = (weight.to(tl.float32) * scale.to(tl.float32)[:, None]).to(tl.bfloat16)
            x = tl.load(rows + first, mask=inside, other=0.0)
            total = tl.dot(weight, tl.trans(x), total)
    return total


@triton.jit
def _finish(
    total,
    bias_ptr,
    residual_ptr,
    out_ptr,
    n,
    m,
    num_rows,
    N: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    HAS_RESIDUAL: tl.constexpr,
):
    """Add bias and residual to a tile, round once, store."""
    if HAS_BIAS:
        total += tl.load(bias_ptr + n, mask=n < N, other=0.0)[:, None]
    inside = (n < N)[:, None] & (m < num_rows)[None, :]
    places = m.to(tl.int64)[None, :] * N + n[:, None]
    if HAS_RESIDUAL:
        total += tl.load(residual_ptr + places, mask=inside, other=0.0).to(tl.float32)
    tl.store(out_ptr + places, total.to(out_ptr.dtype.element_ty), mask=inside)


@triton.jit
def sum_of_tile(
    x_ptr,
    weight_ptr,
    scales_ptr,
    parts_ptr,
    counters_ptr,
    num_rows,
    N: tl.constexpr,
    K: tl.constexpr,
    STRIDE: tl.constexpr,
    SPLITS: tl.constexpr,
    SIDE_BY_SIDE: tl.constexpr,
    IS_INT8: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """Return outputs n and rows m of the program's tile, their sums, and whether these are complete."""
    # Programs that share a tile of the weight run one after the other: it is read from memory once.
    num_row_tiles = tl.cdiv(num_rows, BLOCK_M)
    tile = tl.program_id(0)
    n = tile // num_row_tiles * BLOCK_N + tl.arange(0, BLOCK_N)
    m = tile % num_row_tiles * BLOCK_M + tl.arange(0, BLOCK_M)
    # Behind the last output it is computed again, and not stored.
    near_n = n if N % BLOCK_N == 0 else tl.minimum(n, N - 1)
    if SIDE_BY_SIDE:
        split = tl.program_id(1)
        total = _sum_of_split(
            split, x_ptr, weight_ptr, scales_ptr, near_n, m, num_rows, N, K, STRIDE, SPLITS, IS_INT8, BLOCK_K,
            BLOCK_N, BLOCK_M,
        )  # fmt: skip
        SIZE: tl.constexpr = BLOCK_N * BLOCK_M
        parts = parts_ptr + tile.to(tl.int64) * (SPLITS * SIZE)
        parts += tl.arange(0, BLOCK_N)[:, None] * BLOCK_M + tl.arange(0, BLOCK_M)[None, :]
        tl.store(parts + split * SIZE, total)
        is_complete = is_last(counters_ptr + tile, SPLITS)
        if is_complete:
            total = tl.load(parts, cache_modifier=".cg")
            for other in tl.static_range(1, SPLITS):
                total += tl.load(parts + other * SIZE, cache_modifier=".cg")
    else:
        total = _sum_of_split(
            0, x_ptr, weight_ptr, scales_ptr, near_n, m, num_rows, N, K, STRIDE, SPLITS, IS_INT8, BLOCK_K,
            BLOCK_N, BLOCK_M,
        )  # fmt: skip
        for split in range(1, SPLITS):
            total += _sum_of_split(
                split, x_ptr, weight_ptr, scales_ptr, near_n, m, num_rows, N, K, STRIDE, SPLITS, IS_INT8,
                BLOCK_K, BLOCK_N, BLOCK_M,
            )  # fmt: skip
        is_complete = True
    return n, m, total, is_complete


@triton.jit(do_not_specialize=["num_rows"])
def _linear_kernel(
    x_ptr,
    weight_ptr,
    scales_ptr,
    bias_ptr,
    residual_ptr,
    out_ptr,
    parts_ptr,
    counters_ptr,
    num_rows,
    N: tl.constexpr,
    K: tl.constexpr,
    STRIDE: tl.constexpr,
    SPLITS: tl.constexpr,
    SIDE_BY_SIDE: tl.constexpr,
    IS_INT8: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    HAS_RESIDUAL: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    n, m, total, is_complete = sum_of_tile(
        x_ptr, weight_ptr, scales_ptr, parts_ptr, counters_ptr, num_rows, N, K, STRIDE, SPLITS, SIDE_BY_SIDE,
        IS_INT8, BLOCK_N, BLOCK_M, BLOCK_K,
    )  # fmt: skip
    if is_complete:
        _finish(total, bias_ptr, residual_ptr, out_ptr, n, m, num_rows, N, HAS_BIAS, HAS_RESIDUAL)


@triton.jit(do_not_specialize=["num_rows"])
def _finish_kernel(
    product_ptr,
    bias_ptr,
    residual_ptr,
    out_ptr,
    num_rows,
    N: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    HAS_RESIDUAL: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_M: tl.constexpr,
):
    n, m, total = tile_of_product(product_ptr, num_rows, N, BLOCK_N, BLOCK_M)
    _finish(total, bias_ptr, residual_ptr, out_ptr, n, m, num_rows, N, HAS_BIAS, HAS_RESIDUAL)


class Linear:
    """Dense matmuls on one device and stream.

    Args:
        counters: Shared with all that works on the same stream.
        tiles: What was measured to be fast; None: nothing.
        by_blas: Whether cuBLAS multiplies many rows; then a row's bits depend on how many.
    """

    def __init__(
        self, counters: ArrivalCounters, tiles: TileTable | None = None, *, by_blas: bool = False
    ) -> None:
        self._counters, self._tiles, self._by_blas = counters, tiles or TileTable(), by_blas

    def __call__(
        self, x: Tensor, matrix: TritonMatrix, residual: Tensor | None = None, *, tile: Tile | None = None
    ) -> Tensor:
        """Return x [T, K] @ W.T + bias [+ residual [T, N], written over]; rounded once unless wide."""
        num_rows, (n, k) = len(x), matrix.shape
        dtype = torch.float32 if matrix.is_wide else x.dtype
        out = x.new_empty((num_rows, n), dtype=dtype) if residual is None else residual
        if not num_rows:
            return out
        if self._by_blas and tile is None and blas.takes(matrix, num_rows):
            return self._multiply_by_blas(x, matrix, residual, out)
        plan = TilePlan.of(x, matrix, tile or self._tiles.linear(n, k, num_rows))
        _linear_kernel[plan.grid](
            x,
            matrix.tensors["weight"],
            matrix.scales,
            matrix.bias,
            residual,
            out,
            plan.parts,
            self._counters.of(plan.num_results),
            num_rows,
            HAS_BIAS=matrix.bias is not None,
            HAS_RESIDUAL=residual is not None,
            **plan.constants,
            **plan.options,
        )
        return out

    def _multiply_by_blas(
        self, x: Tensor, matrix: TritonMatrix, residual: Tensor | None, out: Tensor
    ) -> Tensor:
        grid, options = blas.launch_behind(matrix, len(x), blas.TILE_OUTPUTS)
        _finish_kernel[grid](
            blas.product(x, matrix),
            matrix.bias,
            residual,
            out,
            len(x),
            HAS_BIAS=matrix.bias is not None,
            HAS_RESIDUAL=residual is not None,
            **options,
        )
        return out
