"""Rotation of q and k, and the way of k and v to the cache, in one pass over qkv."""

from __future__ import annotations

import triton
import triton.language as tl

# The largest float8_e4m3fn; what is larger would become no number.
_LARGEST_FP8 = tl.constexpr(448.0)


@triton.jit
def rotate_and_store_kernel(
    qkv,
    cos,
    sin,
    slots,
    keys,
    values,
    qkv_stride,
    NUM_HEADS: tl.constexpr,
    KV_HEADS: tl.constexpr,
    D: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    HEADS: tl.constexpr,
):
    """Rotate q in place; rotate k and store it and v in the slots. Program (row, run of HEADS heads).

    qkv [T, qkv_stride] = q | k | v by head, cos and sin float32 [T, D / 2], slots int64 [T], keys and
    values [num_blocks, KV_HEADS, BLOCK_SIZE, D].
    """
    row = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1) * HEADS + tl.arange(0, HEADS)
    dims = tl.arange(0, D // 2)
    is_q = head < NUM_HEADS
    is_k = (head >= NUM_HEADS) & (head < NUM_HEADS + KV_HEADS)
    is_v = (head >= NUM_HEADS + KV_HEADS) & (head < NUM_HEADS + 2 * KV_HEADS)

    at = qkv + row * qkv_stride + head[:, None] * D + dims[None, :]
    is_head = (is_q | is_k | is_v)[:, None]
    first = tl.load(at, mask=is_head, other=0.0).to(tl.float32)
    second = tl.load(at + D // 2, mask=is_head, other=0.0).to(tl.float32)
    c = tl.load(cos + row * (D // 2) + dims)[None, :]
    s = tl.load(sin + row * (D // 2) + dims)[None, :]
    rotated_first = tl.fma(first, c, -(second * s))
    rotated_second = tl.fma(second, c, first * s)
    tl.store(at, rotated_first.to(qkv.dtype.element_ty), mask=is_q[:, None])
    tl.store(at + D // 2, rotated_second.to(qkv.dtype.element_ty), mask=is_q[:, None])

    slot = tl.load(slots + row)
    kv_head = (head - NUM_HEADS) % KV_HEADS
    place = ((slot // BLOCK_SIZE * KV_HEADS + kv_head) * BLOCK_SIZE + slot % BLOCK_SIZE) * D
    place = place[:, None] + dims[None, :]
    tl.store(keys + place, _narrow(rotated_first, keys.dtype.element_ty), mask=is_k[:, None])
    tl.store(keys + place + D // 2, _narrow(rotated_second, keys.dtype.element_ty), mask=is_k[:, None])
    tl.store(values + place, _narrow(first, values.dtype.element_ty), mask=is_v[:, None])
    tl.store(values + place + D // 2, _narrow(second, values.dtype.element_ty), mask=is_v[:, None])


@triton.jit
def _narrow(x, DTYPE: tl.constexpr):
    """Round float32 to the dtype of the cache."""
    if DTYPE == tl.float8e4nv:
        x = tl.clamp(x, -_LARGEST_FP8, _LARGEST_FP8)
    return x.to(DTYPE)
