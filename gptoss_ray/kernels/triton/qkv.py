"""q, k and v of rows in one launch: the matmul, rotation of q and k, the way of k and v to the cache."""

from __future__ import annotations

from dataclasses import replace

import triton
import triton.language as tl
from torch import Tensor

from gptoss_ray.kernels.kernels import AttentionRows, HeadShape
from gptoss_ray.kernels.triton import blas
from gptoss_ray.kernels.triton.blas import tile_of_product
from gptoss_ray.kernels.triton.last_arrival import ArrivalCounters
from gptoss_ray.kernels.triton.linear import sum_of_tile
from gptoss_ray.kernels.triton.matrix import TritonMatrix
from gptoss_ray.kernels.triton.tile_plan import TilePlan
from gptoss_ray.kernels.triton.tile_table import TileTable

# The largest float8_e4m3fn.
_LARGEST_FP8 = tl.constexpr(448.0)


@triton.jit
def _narrow(x, DTYPE: tl.constexpr):
    """Round float32 to the dtype of the cache; what is too large for 8 bits becomes the largest of them."""
    if DTYPE == tl.float8e4nv:
        x = tl.clamp(x, -_LARGEST_FP8, _LARGEST_FP8, propagate_nan=tl.PropagateNan.ALL)
    return x.to(DTYPE)


@triton.jit
def _store_heads(
    total,
    n,
    m,
    num_rows,
    bias_ptr,
    q_ptr,
    cos_ptr,
    sin_ptr,
    slots_ptr,
    keys_ptr,
    values_ptr,
    N: tl.constexpr,
    NUM_HEADS: tl.constexpr,
    KV_HEADS: tl.constexpr,
    D: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_M: tl.constexpr,
    HAS_BIAS: tl.constexpr,
):
    """Round a tile of whole heads, rotate its heads of q and k, and store all where they belong."""
    if HAS_BIAS:
        total += tl.load(bias_ptr + n, mask=n < N, other=0.0)[:, None]
    rounded = total.to(tl.bfloat16).to(tl.float32)
    halves = tl.reshape(rounded, (BLOCK_N // D, 2, D // 2, BLOCK_M))
    first, second = tl.split(tl.permute(halves, (0, 2, 3, 1)))  # [heads, D / 2, rows]

    dims = tl.arange(0, D // 2)
    is_row = m < num_rows
    angle = m[None, :] * (D // 2) + dims[:, None]
    c = tl.load(cos_ptr + angle, mask=is_row[None, :], other=0.0)[None, :, :]
    s = tl.load(sin_ptr + angle, mask=is_row[None, :], other=0.0)[None, :, :]
    rotated_first = tl.fma(first, c, -(second * s))
    rotated_second = tl.fma(second, c, first * s)

    head = (tl.min(n, 0) // D + tl.arange(0, BLOCK_N // D))[:, None, None]
    dims, row, is_row = dims[None, :, None], m[None, None, :], is_row[None, None, :]
    q_at = q_ptr + row.to(tl.int64) * (NUM_HEADS * D) + head * D + dims
    is_q = (head < NUM_HEADS) & is_row
    tl.store(q_at, rotated_first.to(tl.bfloat16), mask=is_q)
    tl.store(q_at + D // 2, rotated_second.to(tl.bfloat16), mask=is_q)

    slot = tl.load(slots_ptr + m, mask=m < num_rows, other=0)[None, None, :]
    kv_head = (head - NUM_HEADS) % KV_HEADS
    at = ((slot // BLOCK_SIZE * KV_HEADS + kv_head) * BLOCK_SIZE + slot % BLOCK_SIZE) * D + dims
    is_k = (head >= NUM_HEADS) & (head < NUM_HEADS + KV_HEADS) & is_row
    tl.store(keys_ptr + at, _narrow(rotated_first, keys_ptr.dtype.element_ty), mask=is_k)
    tl.store(keys_ptr + at + D // 2, _narrow(rotated_second, keys_ptr.dtype.element_ty), mask=is_k)
    is_v = (head >= NUM_HEADS + KV_HEADS) & (head < NUM_HEADS + 2 * KV_HEADS) & is_row
    tl.store(values_ptr + at, _narrow(first, values_ptr.dtype.element_ty), mask=is_v)
    tl.store(values_ptr + at + D // 2, _narrow(second, values_ptr.dtype.element_ty), mask=is_v)


@triton.jit(do_not_specialize=["num_rows"])
def _qkv_kernel(
    x_ptr,
    weight_ptr,
    scales_ptr,
    bias_ptr,
    q_ptr,
    cos_ptr,
    sin_ptr,
    slots_ptr,
    keys_ptr,
    values_ptr,
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
    NUM_HEADS: tl.constexpr,
    KV_HEADS: tl.constexpr,
    D: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    HAS_BIAS: tl.constexpr,
):
    n, m, total, is_complete = sum_of_tile(
        x_ptr, weight_ptr, scales_ptr, parts_ptr, counters_ptr, num_rows, N, K, STRIDE, SPLITS, SIDE_BY_SIDE,
        IS_INT8, BLOCK_N, BLOCK_M, BLOCK_K,
    )  # fmt: skip
    if is_complete:
        _store_heads(
            total, n, m, num_rows, bias_ptr, q_ptr, cos_ptr, sin_ptr, slots_ptr, keys_ptr, values_ptr, N,
            NUM_HEADS, KV_HEADS, D, BLOCK_SIZE, BLOCK_N, BLOCK_M, HAS_BIAS,
        )  # fmt: skip


@triton.jit(do_not_specialize=["num_rows"])
def _heads_kernel(
    product_ptr,
    bias_ptr,
    q_ptr,
    cos_ptr,
    sin_ptr,
    slots_ptr,
    keys_ptr,
    values_ptr,
    num_rows,
    N: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_M: tl.constexpr,
    NUM_HEADS: tl.constexpr,
    KV_HEADS: tl.constexpr,
    D: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    HAS_BIAS: tl.constexpr,
):
    n, m, total = tile_of_product(product_ptr, num_rows, N, BLOCK_N, BLOCK_M)
    _store_heads(
        total, n, m, num_rows, bias_ptr, q_ptr, cos_ptr, sin_ptr, slots_ptr, keys_ptr, values_ptr, N,
        NUM_HEADS, KV_HEADS, D, BLOCK_SIZE, BLOCK_N, BLOCK_M, HAS_BIAS,
    )  # fmt: skip


class QkvProjection:
    """Matmuls that end in q and in the cache, on one device and stream.

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
        self,
        x: Tensor,
        matrix: TritonMatrix,
        rows: AttentionRows,
        heads: HeadShape,
        keys: Tensor,
        values: Tensor,
    ) -> Tensor:
        """Return rotated q [T, heads · D] of normed x [T, H]; rotated k, and v, go to the rows' slots."""
        q = x.new_empty(len(x), heads.num_heads * heads.head_dim)
        if not len(x):
            return q
        constants = {
            "NUM_HEADS": heads.num_heads,
            "KV_HEADS": heads.num_kv_heads,
            "D": heads.head_dim,
            "BLOCK_SIZE": keys.shape[2],
            "HAS_BIAS": matrix.bias is not None,
        }
        places = (matrix.bias, q, rows.cos, rows.sin, rows.slot_mapping, keys, values)
        if self._by_blas and blas.takes(matrix, len(x)):
            grid, options = blas.launch_behind(matrix, len(x), max(blas.TILE_OUTPUTS, heads.head_dim))
            _heads_kernel[grid](blas.product(x, matrix), *places, len(x), **constants, **options)
            return q
        tile = self._tiles.linear(*matrix.shape, len(x))
        plan = TilePlan.of(x, matrix, replace(tile, outputs=max(tile.outputs, heads.head_dim)))
        _qkv_kernel[plan.grid](
            x,
            matrix.tensors["weight"],
            matrix.scales,
            *places,
            plan.parts,
            self._counters.of(plan.num_results),
            len(x),
            **plan.constants,
            **plan.options,
            **constants,
        )
        return q
