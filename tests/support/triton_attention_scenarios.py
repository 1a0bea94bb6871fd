"""What `triton_compile` launches of attention: the published models' heads, on meta tensors."""

from __future__ import annotations

import torch

from gptoss_ray.kernels.kernels import AttentionRows, HeadShape
from gptoss_ray.kernels.triton.attention import TritonAttention
from gptoss_ray.kernels.triton.last_arrival import ArrivalCounters
from gptoss_ray.kernels.triton.qkv import QkvProjection
from tests.support.triton_scenarios import HIDDEN, META, dense, values

HEADS = HeadShape(num_heads=64, num_kv_heads=8, head_dim=64)
MAX_CONTEXT = 131_072


def bfloat16() -> None:
    """Layers of both kinds over a cache like the activations."""
    _attend(16, None, 32, torch.bfloat16)
    _attend(2048, 128, 32, torch.bfloat16)


def float8() -> None:
    """The same over an 8-bit cache, and with other blocks."""
    _attend(16, None, 64, torch.float8_e4m3fn)
    _attend(2048, 128, 16, torch.float8_e4m3fn)


def qkv_in_8_bits() -> None:
    """Of few rows and of many, weights in 8 bits, into either cache."""
    matrix = dense((64 + 2 * 8) * HEADS.head_dim, HIDDEN, is_int8=True)
    for num_rows, dtype in ((16, torch.bfloat16), (2048, torch.float8_e4m3fn)):
        longs = [values(num_rows, dtype=torch.int64) for _ in range(3)]
        cos, sin = (values(num_rows, HEADS.head_dim // 2, dtype=torch.float32) for _ in range(2))
        rows = AttentionRows(*longs, values(1, 1, dtype=torch.int32), cos, sin, None)
        keys, cached = (values(1000, 8, 32, HEADS.head_dim, dtype=dtype) for _ in range(2))
        QkvProjection(ArrivalCounters(META))(values(num_rows, HIDDEN), matrix, rows, HEADS, keys, cached)


def _attend(num_rows: int, window: int | None, block_size: int, dtype: torch.dtype) -> None:
    longs = [values(num_rows, dtype=torch.int64) for _ in range(3)]
    table = values(num_rows, MAX_CONTEXT // block_size, dtype=torch.int32)
    cos, sin = (values(num_rows, HEADS.head_dim // 2, dtype=torch.float32) for _ in range(2))
    attention = TritonAttention(META)
    plan = attention.plan(AttentionRows(*longs, table, cos, sin, window), HEADS, block_size)
    keys, cached = (values(1000, 8, block_size, HEADS.head_dim, dtype=dtype) for _ in range(2))
    matrix = dense((64 + 2 * 8) * HEADS.head_dim, HIDDEN)
    q = QkvProjection(ArrivalCounters(META))(values(num_rows, HIDDEN), matrix, plan.rows, HEADS, keys, cached)
    attention.attend(q, plan, keys, cached, values(64, dtype=torch.float32))
