"""As test_bad_input.py: of attention, whose tensors hold indices into others."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from gptoss_ray.kernels.kernels import AttentionRows, AttentionWeights, HeadShape, Matrix, Norm
from gptoss_ray.kernels.native.native_kernels import NativeKernels
from tests.support.wrong_tensors import assert_each_wrong_tensor_is_refused, random, wrong_tensors

T, H = 3, 64
HEADS = HeadShape(num_heads=4, num_kv_heads=2, head_dim=16)
BLOCK_SIZE, NUM_BLOCKS = 16, 8
QKV = (HEADS.num_heads + 2 * HEADS.num_kv_heads) * HEADS.head_dim
ROWS = AttentionRows(
    positions=torch.tensor([0, 1, 20]),
    sequence_index=torch.tensor([0, 0, 1]),
    slot_mapping=torch.tensor([16, 17, 52]),
    block_table=torch.tensor([[1, -1, -1], [2, 3, -1]], dtype=torch.int32),
    cos=torch.ones(T, HEADS.head_dim // 2),
    sin=torch.zeros(T, HEADS.head_dim // 2),
    window=None,
)


def cache() -> Tensor:
    return torch.zeros(NUM_BLOCKS, HEADS.num_kv_heads, BLOCK_SIZE, HEADS.head_dim, dtype=torch.bfloat16)


def test_attention(kernels: NativeKernels):
    plan = kernels.plan_attention(ROWS, HEADS, BLOCK_SIZE)
    arguments = {"qkv": random(T, QKV), "keys": cache(), "values": cache()}
    arguments["sinks"] = torch.zeros(HEADS.num_heads)
    assert_each_wrong_tensor_is_refused(
        lambda qkv, keys, values, sinks: kernels.attention(qkv, plan, keys, values, sinks), arguments
    )
    scattered = cache().transpose(0, 1).contiguous().transpose(0, 1)
    with pytest.raises(ValueError, match=r"keys is .*not contiguous"):
        kernels.attention(random(T, QKV), plan, scattered, cache(), arguments["sinks"])


def attention_weights(kernels: NativeKernels) -> AttentionWeights:
    def matrix(n: int, k: int) -> Matrix:
        return kernels.matrix(kernels.pack(random(n, k)), (n, k))

    width = HEADS.num_heads * HEADS.head_dim
    sinks = torch.zeros(HEADS.num_heads)
    return AttentionWeights(Norm(torch.ones(H), 1e-5), matrix(QKV, H), matrix(H, width), sinks)


def test_attention_layer(kernels: NativeKernels):
    plan, weights = kernels.plan_attention(ROWS, HEADS, BLOCK_SIZE), attention_weights(kernels)

    def call(hidden: Tensor, norm: Tensor, keys: Tensor, values: Tensor, sinks: Tensor) -> Tensor:
        changed = replace(weights, norm=Norm(norm, 1e-5), sinks=sinks)
        return kernels.attention_layer(hidden, changed, plan, keys, values)

    arguments = {"hidden": random(T, H), "norm": weights.norm.weight, "keys": cache(), "values": cache()}
    assert_each_wrong_tensor_is_refused(call, {**arguments, "sinks": weights.sinks})
    for name in ("qkv", "out"):
        swapped = replace(weights, **{name: kernels.matrix(kernels.pack(random(32, H)), (32, H))})
        with pytest.raises(ValueError, match=rf"{name}\."):
            kernels.attention_layer(random(T, H), swapped, plan, cache(), cache())


@pytest.mark.parametrize("name", ["positions", "sequence_index", "slot_mapping", "block_table", "cos", "sin"])
def test_an_attention_plan_of_wrong_tensors(kernels: NativeKernels, name: str):
    for what, wrong in wrong_tensors(getattr(ROWS, name)).items():
        if (name, what) == ("block_table", "shape"):
            continue  # a wider table is as good
        with pytest.raises(ValueError, match=r"must be|must lie"):
            kernels.plan_attention(replace(ROWS, **{name: wrong}), HEADS, BLOCK_SIZE)


@pytest.mark.parametrize(
    "changes",
    [
        {"positions": torch.tensor([0, 1, -1])},
        {"positions": torch.tensor([0, 1, 3 * BLOCK_SIZE])},
        {"positions": torch.tensor([0, 1, 1 << 60])},
        {"sequence_index": torch.tensor([0, 0, 2])},
        {"sequence_index": torch.tensor([-1, 0, 1])},
        {"slot_mapping": torch.tensor([16, 17, NUM_BLOCKS * BLOCK_SIZE])},
        {"slot_mapping": torch.tensor([-1, 17, 52])},
        {"block_table": torch.tensor([[1, -1, -1], [2, -1, -1]], dtype=torch.int32)},
        {"block_table": torch.tensor([[1, -1, -1], [-1, 3, -1]], dtype=torch.int32)},
        {"block_table": torch.tensor([[NUM_BLOCKS, -1, -1], [2, 3, -1]], dtype=torch.int32)},
        {"block_table": torch.zeros(0, 3, dtype=torch.int32)},
        {"block_table": torch.zeros(2, 0, dtype=torch.int32)},
        {"window": 0},
        {"window": -5},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_attention_outside_its_blocks(kernels: NativeKernels, changes: dict[str, Any]):
    with pytest.raises(ValueError):
        plan = kernels.plan_attention(replace(ROWS, **changes), HEADS, BLOCK_SIZE)
        kernels.attention(random(T, QKV), plan, cache(), cache(), torch.zeros(HEADS.num_heads))


@pytest.mark.parametrize(
    ("heads", "block_size"),
    [
        (HeadShape(4, 2, 24), 16),
        (HeadShape(4, 2, 272), 16),
        (HeadShape(4, 2, 0), 16),
        (HeadShape(4, 3, 16), 16),
        (HeadShape(0, 0, 16), 16),
        (HeadShape(4, 0, 16), 16),
        (HeadShape(34, 2, 16), 16),
        (HeadShape(4, 2, 16), 0),
        (HeadShape(4, 2, 16), 8),
        (HeadShape(4, 2, 16), -16),
    ],
    ids=str,
)
def test_attention_of_shapes_that_it_is_not_written_for(
    kernels: NativeKernels, heads: HeadShape, block_size: int
):
    half = torch.zeros(T, heads.head_dim // 2)
    table = torch.zeros(2, 64, dtype=torch.int32)
    rows = replace(ROWS, cos=half, sin=half, block_table=table, slot_mapping=torch.tensor([0, 1, 2]))
    shape = (NUM_BLOCKS, heads.num_kv_heads, max(block_size, 0), heads.head_dim)
    keys, values = torch.zeros(2, *shape, dtype=torch.bfloat16)
    with pytest.raises(ValueError):
        plan = kernels.plan_attention(rows, heads, block_size)
        width = (heads.num_heads + 2 * heads.num_kv_heads) * heads.head_dim
        kernels.attention(random(T, width), plan, keys, values, torch.zeros(heads.num_heads))


def test_a_plan_of_other_kernels(kernels: NativeKernels):
    other: Any = object()
    with pytest.raises(ValueError, match=r"NativeKernels\.plan_attention"):
        kernels.attention(random(T, QKV), other, cache(), cache(), torch.zeros(HEADS.num_heads))


def test_no_rows_are_no_error(kernels: NativeKernels):
    empty = {name: getattr(ROWS, name)[:0] for name in ("positions", "sequence_index", "slot_mapping")}
    rows = replace(ROWS, **empty, cos=ROWS.cos[:0], sin=ROWS.sin[:0], block_table=ROWS.block_table[:0])
    plan = kernels.plan_attention(rows, HEADS, BLOCK_SIZE)
    out = kernels.attention(random(0, QKV), plan, cache(), cache(), torch.zeros(HEADS.num_heads))
    assert out.shape == (0, HEADS.num_heads * HEADS.head_dim)
