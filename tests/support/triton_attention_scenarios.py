"""What `triton_compile` launches of attention: the published models' heads, on meta tensors."""

from __future__ import annotations

import torch

from gptoss_ray.kernels.kernels import AttentionRows, HeadShape
from gptoss_ray.kernels.triton.attention import TritonAttention
from tests.support.triton_scenarios import META, values

HEADS = HeadShape(num_heads=64, num_kv_heads=8, head_dim=64)
NUM_ROWS, MAX_CONTEXT = 16, 131_072


def bfloat16() -> None:
    """Layers of both kinds over a cache like the activations."""
    _attend(None, 32, torch.bfloat16)
    _attend(128, 32, torch.bfloat16)


def float8() -> None:
    """The same over an 8-bit cache, and with other blocks."""
    _attend(None, 64, torch.float8_e4m3fn)
    _attend(128, 16, torch.float8_e4m3fn)


def _attend(window: int | None, block_size: int, dtype: torch.dtype) -> None:
    longs = [values(NUM_ROWS, dtype=torch.int64) for _ in range(3)]
    table = values(NUM_ROWS, MAX_CONTEXT // block_size, dtype=torch.int32)
    cos, sin = (values(NUM_ROWS, HEADS.head_dim // 2, dtype=torch.float32) for _ in range(2))
    attention = TritonAttention(META)
    plan = attention.plan(AttentionRows(*longs, table, cos, sin, window), HEADS, block_size)
    keys, cached = (values(1000, 8, block_size, HEADS.head_dim, dtype=dtype) for _ in range(2))
    qkv = values(NUM_ROWS, (64 + 2 * 8) * HEADS.head_dim)
    attention.attend(qkv, plan, keys, cached, values(64, dtype=torch.float32))
