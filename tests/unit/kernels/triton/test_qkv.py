"""The projection to q and to the cache, under Triton's interpreter."""

from __future__ import annotations

import pytest
import torch

from gptoss_ray.kernels.kernels import AttentionRows, HeadShape
from gptoss_ray.kernels.reference import rotate
from gptoss_ray.kernels.triton.last_arrival import ArrivalCounters
from gptoss_ray.kernels.triton.linear import Linear
from gptoss_ray.kernels.triton.matrix import TritonMatrix, pack_int8, pack_values
from gptoss_ray.kernels.triton.qkv import QkvProjection
from tests.support.triton_layers import int8_values

CPU = torch.device("cpu")
HIDDEN, BLOCK_SIZE, NUM_BLOCKS = 200, 16, 8


def make(heads, num_rows):
    generator = torch.Generator().manual_seed(0)
    width = (heads.num_heads + 2 * heads.num_kv_heads) * heads.head_dim
    tensors = pack_values(torch.randn(width, HIDDEN, generator=generator), CPU)
    tensors["bias"] = torch.randn(width, generator=generator)
    x = torch.randn(num_rows, HIDDEN, generator=generator).bfloat16()
    angles = torch.rand(num_rows, heads.head_dim // 2, generator=generator) * 6
    slots = torch.randperm(NUM_BLOCKS * BLOCK_SIZE, generator=generator)[:num_rows]
    return TritonMatrix((width, HIDDEN), tensors), x, slots, angles.cos(), angles.sin()


def project(heads, matrix, x, slots, cos, sin, **options):
    unused = torch.empty(0, dtype=torch.int64)
    rows = AttentionRows(unused, unused, slots, unused, cos, sin, None)
    shape = (NUM_BLOCKS, heads.num_kv_heads, BLOCK_SIZE, heads.head_dim)
    keys, values = (torch.full(shape, torch.nan, dtype=torch.bfloat16) for _ in range(2))
    q = QkvProjection(ArrivalCounters(CPU), **options)(x, matrix, rows, heads, keys, values)
    return q, keys, values


@pytest.mark.parametrize(
    "heads", [HeadShape(5, 1, 64), HeadShape(6, 2, 16), HeadShape(4, 4, 32), HeadShape(1, 1, 128)], ids=str
)
def test_q_and_k_are_rotated_and_k_and_v_stored_in_the_slots_of_their_rows(heads):
    matrix, x, slots, cos, sin = make(heads, 5)
    q, keys, values = project(heads, matrix, x, slots, cos, sin)
    by_head = Linear(ArrivalCounters(CPU))(x, matrix).view(5, -1, heads.head_dim)
    rotated = rotate(by_head, cos[:, None], sin[:, None])
    first_v = heads.num_heads + heads.num_kv_heads
    torch.testing.assert_close(q.float(), rotated[:, : heads.num_heads].flatten(1), atol=1e-5, rtol=8e-3)
    blocks, offsets = slots // BLOCK_SIZE, slots % BLOCK_SIZE
    stored = keys[blocks, :, offsets].float()
    torch.testing.assert_close(stored, rotated[:, heads.num_heads : first_v], atol=1e-5, rtol=8e-3)
    assert torch.equal(values[blocks, :, offsets], by_head[:, first_v:])
    for cache in (keys, values):
        cache[blocks, :, offsets] = torch.nan
        assert cache.isnan().all()


def test_a_row_has_the_same_bits_in_any_batch():
    heads = HeadShape(2, 1, 64)
    matrix, *rows = make(heads, 80)
    q, keys, values = project(heads, matrix, *rows)
    for some in (slice(3, 4), slice(60, 77)):
        part = [each[some] for each in rows]
        part_q, part_keys, part_values = project(heads, matrix, *part)
        blocks, offsets = part[1] // BLOCK_SIZE, part[1] % BLOCK_SIZE
        assert torch.equal(part_q, q[some])
        assert torch.equal(part_keys[blocks, :, offsets], keys[blocks, :, offsets])
        assert torch.equal(part_values[blocks, :, offsets], values[blocks, :, offsets])


@pytest.mark.parametrize("heads", [HeadShape(2, 1, 64), HeadShape(3, 1, 16), HeadShape(1, 1, 128)], ids=str)
def test_what_cublas_multiplies_goes_where_it_goes_otherwise(heads):
    matrix, *rows = make(heads, 70)
    for found, wanted in zip(
        project(heads, matrix, *rows, by_blas=True), project(heads, matrix, *rows), strict=True
    ):
        torch.testing.assert_close(found, wanted, rtol=2**-6, atol=0.5, equal_nan=True)
    few = [each[:5] for each in rows]
    for found, wanted in zip(
        project(heads, matrix, *few, by_blas=True), project(heads, matrix, *few), strict=True
    ):
        torch.testing.assert_close(found, wanted, rtol=0, atol=0, equal_nan=True)


def test_weights_in_8_bits_give_the_bits_of_the_values_that_they_stand_for():
    heads = HeadShape(6, 2, 16)
    matrix, *rows = make(heads, 5)
    coded = pack_int8(matrix.tensors["weight"], CPU)
    values = pack_values(int8_values(coded), CPU)
    bias = {"bias": matrix.bias}
    narrow, wide = (
        project(heads, TritonMatrix(matrix.shape, tensors | bias), *rows) for tensors in (coded, values)
    )
    for each, other in zip(narrow, wide, strict=True):
        torch.testing.assert_close(each, other, rtol=0, atol=0, equal_nan=True)
