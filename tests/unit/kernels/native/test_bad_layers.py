"""As test_bad_input.py: of whole layers in one call."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from gptoss_ray.kernels.kernels import (
    AttentionPlans,
    AttentionRows,
    AttentionWeights,
    Expert,
    Gate,
    HeadShape,
    LayerCaches,
    LayerWeights,
    Matrix,
    Norm,
    SwiGLU,
)
from gptoss_ray.kernels.native.native_kernels import NativeKernels
from tests.support.wrong_tensors import assert_each_wrong_tensor_is_refused, random

T, H, INTERMEDIATE, E = 3, 64, 32, 4
HEADS = HeadShape(num_heads=4, num_kv_heads=2, head_dim=16)
QUERY_WIDTH = HEADS.num_heads * HEADS.head_dim
QKV = QUERY_WIDTH + 2 * HEADS.num_kv_heads * HEADS.head_dim
BLOCK_SIZE, NUM_PLACES = 16, 2


def matrix(kernels: NativeKernels, n: int, k: int) -> Matrix:
    return kernels.matrix(kernels.pack(random(n, k)), (n, k))


def table(kernels: NativeKernels, num_experts: int = E, hidden_size: int = H) -> Any:
    expert = Expert(
        matrix(kernels, 2 * INTERMEDIATE, hidden_size), matrix(kernels, hidden_size, INTERMEDIATE)
    )
    return kernels.expert_table([expert] * num_experts)


def norm() -> Norm:
    return Norm(torch.ones(H), 1e-5)


def layer(kernels: NativeKernels) -> LayerWeights:
    return LayerWeights(
        attention=AttentionWeights(
            norm(), matrix(kernels, QKV, H), matrix(kernels, H, QUERY_WIDTH), torch.zeros(HEADS.num_heads)
        ),
        is_sliding=False,
        cache_index=1,
        norm=norm(),
        gate=Gate(random(E, H, dtype=torch.float32), torch.zeros(E), 2),
        table=table(kernels),
        swiglu=SwiGLU(1.702, 7.0),
    )


def plan(kernels: NativeKernels, num_rows: int = T, heads: HeadShape = HEADS) -> Any:
    rows = AttentionRows(
        positions=torch.arange(num_rows),
        sequence_index=torch.zeros(num_rows, dtype=torch.int64),
        slot_mapping=torch.arange(num_rows),
        block_table=torch.zeros(1, 1, dtype=torch.int32),
        cos=torch.ones(num_rows, heads.head_dim // 2),
        sin=torch.zeros(num_rows, heads.head_dim // 2),
        window=None,
    )
    return kernels.plan_attention(rows, heads, BLOCK_SIZE)


def cache() -> LayerCaches:
    shape = (NUM_PLACES, 2, HEADS.num_kv_heads, BLOCK_SIZE, HEADS.head_dim)
    return LayerCaches(*torch.zeros(2, *shape, dtype=torch.bfloat16))


def test_wrong_tensors_of_a_step(kernels: NativeKernels):
    stack, rows = kernels.layer_stack([layer(kernels)]), plan(kernels)

    def call(hidden: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        return kernels.layers(hidden, stack, AttentionPlans(rows, rows), LayerCaches(keys, values))

    assert_each_wrong_tensor_is_refused(call, {"hidden": random(T, H), **cache()._asdict()})


def test_wrong_tensors_of_a_layer(kernels: NativeKernels):
    good = layer(kernels)

    def call(weight: Tensor, bias: Tensor, norm: Tensor, attention_norm: Tensor, sinks: Tensor) -> Any:
        attention = replace(good.attention, norm=Norm(attention_norm, 1e-5), sinks=sinks)
        changes = {"gate": Gate(weight, bias, 2), "norm": Norm(norm, 1e-5), "attention": attention}
        # The first layer says how many heads there are.
        return kernels.layer_stack([good, replace(good, **changes)])

    arguments = {"weight": good.gate.weight, "bias": good.gate.bias, "norm": good.norm.weight}
    attention = good.attention
    arguments |= {"attention_norm": attention.norm.weight, "sinks": attention.sinks}
    assert_each_wrong_tensor_is_refused(call, arguments)


def test_layers_that_do_not_fit_each_other(kernels: NativeKernels):
    good = layer(kernels)
    with pytest.raises(ValueError, match="at least one"):
        kernels.layer_stack([])
    with pytest.raises(ValueError, match=r"gate\.weight"):
        kernels.layer_stack([replace(good, table=table(kernels, E - 1))])
    with pytest.raises(ValueError, match="experts of a layer take rows of 96"):
        kernels.layer_stack([replace(good, table=table(kernels, E, 96))])
    wider = replace(good.attention, qkv=matrix(kernels, QKV, 96))
    with pytest.raises(ValueError, match="qkv of a layer take rows of 96"):
        kernels.layer_stack([good, replace(good, attention=wider)])


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"cache_index": NUM_PLACES}, "cache_index is 2"),
        ({"cache_index": -1}, "cache_index is -1"),
        ({"gate": 0}, "k is 0"),
        ({"gate": -1}, "k is -1"),
        ({"gate": E + 1}, "k is 5"),
    ],
    ids=str,
)
def test_layers_that_do_not_fit_the_step(kernels: NativeKernels, changes: dict[str, Any], named: str):
    good = layer(kernels)
    if "gate" in changes:
        changes = {"gate": replace(good.gate, experts_per_token=changes["gate"])}
    stack, rows = kernels.layer_stack([replace(good, **changes)]), plan(kernels)
    with pytest.raises(ValueError, match=named):
        kernels.layers(random(T, H), stack, AttentionPlans(rows, rows), cache())


def test_matrices_of_a_layer_that_do_not_fit_its_heads(kernels: NativeKernels):
    good = layer(kernels)
    for name in ("qkv", "out"):
        attention = replace(good.attention, **{name: matrix(kernels, 32, H)})
        stack, rows = kernels.layer_stack([replace(good, attention=attention)]), plan(kernels)
        with pytest.raises(ValueError, match=rf"{name}\."):
            kernels.layers(random(T, H), stack, AttentionPlans(rows, rows), cache())


def test_plans_that_do_not_fit_the_layers(kernels: NativeKernels):
    stack, rows = kernels.layer_stack([layer(kernels)]), plan(kernels)
    with pytest.raises(ValueError, match=r"sliding\.num_tokens is 2"):
        kernels.layers(random(T, H), stack, AttentionPlans(rows, plan(kernels, 2)), cache())
    with pytest.raises(ValueError, match="4 sinks; the plan is of 2 heads"):
        narrow = plan(kernels, T, HeadShape(2, 2, 16))
        kernels.layers(random(T, H), stack, AttentionPlans(narrow, rows), cache())


def test_stacks_tables_and_plans_of_other_kernels(kernels: NativeKernels):
    other: Any = object()
    good = layer(kernels)
    stack, rows = kernels.layer_stack([good]), plan(kernels)
    with pytest.raises(ValueError, match=r"NativeKernels\.expert_table"):
        kernels.layer_stack([replace(good, table=other)])
    with pytest.raises(ValueError, match=r"NativeKernels\.matrix"):
        kernels.layer_stack([replace(good, attention=replace(good.attention, qkv=other))])
    with pytest.raises(ValueError, match=r"NativeKernels\.layer_stack"):
        kernels.layers(random(T, H), other, AttentionPlans(rows, rows), cache())
    with pytest.raises(ValueError, match=r"NativeKernels\.plan_attention"):
        kernels.layers(random(T, H), stack, AttentionPlans(rows, other), cache())


def test_no_rows_are_no_error(kernels: NativeKernels):
    stack, none = kernels.layer_stack([layer(kernels)]), plan(kernels, 0)
    assert kernels.layers(random(0, H), stack, AttentionPlans(none, none), cache()).shape == (0, H)
