"""Whole layers in one call have the bits of their parts, called one by one."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from gptoss_ray.kernels.kernels import (
    AttentionRows,
    AttentionWeights,
    Expert,
    Gate,
    HeadShape,
    Norm,
    SwiGLU,
)
from gptoss_ray.kernels.native.native_kernels import NativeKernels
from gptoss_ray.kernels.reference_kernels import ReferenceKernels
from tests.support.local_token_dispatcher import LocalTokenDispatcher

H, INTERMEDIATE, NUM_EXPERTS, NUM_CHOSEN = 96, 64, 7, 3
HEADS = HeadShape(num_heads=6, num_kv_heads=2, head_dim=32)
BLOCK_SIZE = 16
SWIGLU = SwiGLU(1.702, 7.0)


def randn(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def make_matrix(kernels, n: int, k: int, seed: int):
    weight = randn(n, k, seed=seed).bfloat16() / k**0.5
    return kernels.matrix(kernels.pack(weight, randn(n, seed=seed + 1)), (n, k))


def make_norm(seed: int) -> Norm:
    return Norm(1 + 0.1 * randn(H, seed=seed), 1e-5)


class Layer:
    """A mixture of random experts."""

    def __init__(self, kernels: NativeKernels | ReferenceKernels) -> None:
        experts = [
            Expert(
                make_matrix(kernels, 2 * INTERMEDIATE, H, 10 * expert),
                make_matrix(kernels, H, INTERMEDIATE, 10 * expert + 5),
            )
            for expert in range(NUM_EXPERTS)
        ]
        self.table = kernels.expert_table(experts)
        self.norm = make_norm(1)
        self.gate = Gate(randn(NUM_EXPERTS, H, seed=2), randn(NUM_EXPERTS, seed=3), NUM_CHOSEN)

    def at_once(self, kernels, hidden: Tensor) -> Tensor:
        return kernels.mixture(hidden.clone(), self.norm, self.gate, self.table, SWIGLU)

    def in_parts(self, kernels, hidden: Tensor) -> Tensor:
        normed, weights, expert_ids = kernels.gate(hidden, self.norm, self.gate)
        dispatcher = LocalTokenDispatcher(NUM_EXPERTS)
        grouped, handle = dispatcher.dispatch(normed, expert_ids)
        results = kernels.experts(grouped.rows, grouped.num_rows_per_expert, self.table, SWIGLU)
        return kernels.combine(hidden.clone(), dispatcher.combine(results, handle), weights)


@pytest.mark.parametrize("num_rows", [0, 1, 2, 5, 70])
def test_a_mixture_has_the_bits_of_gate_dispatch_experts_and_combine(kernels, num_rows):
    for each in (kernels, ReferenceKernels(torch.bfloat16)):
        layer, hidden = Layer(each), randn(num_rows, H, seed=9).bfloat16()
        assert torch.equal(layer.at_once(each, hidden), layer.in_parts(each, hidden))


def test_a_row_gets_the_same_from_a_mixture_in_any_batch_on_any_number_of_threads(kernels, other_kernels):
    hidden = randn(40, H, seed=9).bfloat16()
    together = Layer(kernels).at_once(kernels, hidden)
    for each in (kernels, other_kernels):
        layer = Layer(each)
        for rows in ([0], [39, 3], list(range(39, -1, -1))):
            assert torch.equal(layer.at_once(each, hidden[rows]), together[rows])


def test_with_8_bit_activations_a_mixture_has_the_same_bits_in_parts_batches_and_threads(coded_kernels):
    hidden = randn(40, H, seed=9).bfloat16()
    together = Layer(coded_kernels[0]).at_once(coded_kernels[0], hidden)
    for kernels in coded_kernels:
        layer = Layer(kernels)
        assert torch.equal(layer.in_parts(kernels, hidden), together)
        for rows in ([0], [39, 3], list(range(39, -1, -1))):
            assert torch.equal(layer.at_once(kernels, hidden[rows]), together[rows])


def test_a_mixture_tells_how_many_rows_chose_each_expert(kernels):
    layer, hidden = Layer(kernels), randn(23, H, seed=9).bfloat16()
    layer.at_once(kernels, hidden)
    _, _, expert_ids = kernels.gate(hidden, layer.norm, layer.gate)
    counts = layer.table.num_rows_per_expert
    assert counts == expert_ids.flatten().bincount(minlength=NUM_EXPERTS).tolist()


def attention_case(kernels, num_rows: int, window: int | None):
    """Weights, plan, and a cache of which the first half of the positions is written."""
    width = (HEADS.num_heads + 2 * HEADS.num_kv_heads) * HEADS.head_dim
    weights = AttentionWeights(
        norm=make_norm(1),
        qkv=make_matrix(kernels, width, H, 2),
        out=make_matrix(kernels, H, HEADS.num_heads * HEADS.head_dim, 4),
        sinks=randn(HEADS.num_heads, seed=6),
    )
    positions = torch.arange(num_rows) + 30
    table = torch.arange(8, dtype=torch.int32)[None]
    rows = AttentionRows(
        positions=positions,
        sequence_index=torch.zeros_like(positions),
        slot_mapping=positions,
        block_table=table,
        cos=randn(num_rows, HEADS.head_dim // 2, seed=7),
        sin=randn(num_rows, HEADS.head_dim // 2, seed=8),
        window=window,
    )
    plan = kernels.plan_attention(rows, HEADS, BLOCK_SIZE)
    shape = (8, HEADS.num_kv_heads, BLOCK_SIZE, HEADS.head_dim)
    return weights, plan, [randn(*shape, seed=seed).bfloat16() for seed in (11, 12)]


@pytest.mark.parametrize("window", [None, 9])
@pytest.mark.parametrize("num_rows", [0, 1, 21])
def test_an_attention_layer_has_the_bits_of_its_parts(kernels, num_rows, window):
    for each in (kernels, ReferenceKernels(torch.bfloat16)):
        assert_an_attention_layer_is_its_parts(each, num_rows, window)


@pytest.mark.parametrize("num_rows", [1, 21])
def test_an_attention_layer_with_8_bit_activations_has_the_bits_of_its_parts(coded_kernels, num_rows):
    for each in coded_kernels:
        assert_an_attention_layer_is_its_parts(each, num_rows, window=9)


def assert_an_attention_layer_is_its_parts(kernels, num_rows: int, window: int | None) -> None:
    weights, plan, cache = attention_case(kernels, num_rows, window)
    hidden = randn(num_rows, H, seed=9).bfloat16()
    qkv = kernels.norm_linear(hidden, weights.norm, weights.qkv)
    expected_cache = [part.clone() for part in cache]
    attended = kernels.attention(qkv, plan, *expected_cache, weights.sinks)
    expected = kernels.linear_add(attended, weights.out, hidden.clone())
    assert torch.equal(kernels.attention_layer(hidden, weights, plan, *cache), expected)
    assert all(map(torch.equal, cache, expected_cache))
