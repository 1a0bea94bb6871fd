"""Whole layers in one call have the bits of their parts, called one by one."""

from __future__ import annotations

from collections.abc import Sequence

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
    Norm,
    SwiGLU,
)
from gptoss_ray.kernels.native.native_kernels import NativeKernels
from gptoss_ray.kernels.reference_kernels import ReferenceKernels
from tests.support.local_token_dispatcher import LocalTokenDispatcher

H, INTERMEDIATE, NUM_EXPERTS, NUM_CHOSEN = 96, 64, 7, 3
HEADS = HeadShape(num_heads=6, num_kv_heads=2, head_dim=32)
BLOCK_SIZE = 16
WINDOW, POSITION, MOST_ROWS = 9, 13, 70
SWIGLU = SwiGLU(1.702, 7.0)


def randn(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def make_matrix(kernels, n: int, k: int, seed: int):
    weight = randn(n, k, seed=seed).bfloat16() / k**0.5
    return kernels.matrix(kernels.pack(weight, randn(n, seed=seed + 1)), (n, k))


def make_norm(seed: int) -> Norm:
    return Norm(1 + 0.1 * randn(H, seed=seed), 1e-5)


class Stack:
    """Three layers of random weights, of which the second sees a window."""

    def __init__(self, kernels: NativeKernels | ReferenceKernels) -> None:
        self.kernels = kernels
        self.layers = [make_layer(kernels, index) for index in range(3)]
        self.stack = kernels.layer_stack(self.layers)

    def at_once(self, hidden: Tensor, rows: Sequence[int]) -> tuple[Tensor, LayerCaches]:
        """Return what becomes of these rows, and of the cache."""
        cache = make_cache()
        plans = AttentionPlans(*(make_plan(self.kernels, rows, window) for window in (None, WINDOW)))
        return self.kernels.layers(hidden[rows], self.stack, plans, cache), cache

    def in_parts(self, hidden: Tensor, rows: Sequence[int]) -> tuple[Tensor, LayerCaches]:
        kernels, cache, hidden = self.kernels, make_cache(), hidden[rows]
        for layer in self.layers:
            plan = make_plan(kernels, rows, WINDOW if layer.is_sliding else None)
            keys, values = (part[layer.cache_index] for part in cache)
            hidden = kernels.attention_layer(hidden, layer.attention, plan, keys, values)
            normed, weights, expert_ids = kernels.gate(hidden, layer.norm, layer.gate)
            dispatcher = LocalTokenDispatcher(NUM_EXPERTS)
            grouped, handle = dispatcher.dispatch(normed, expert_ids)
            results = kernels.experts(grouped.rows, grouped.num_rows_per_expert, layer.table, SWIGLU)
            hidden = kernels.combine(hidden, dispatcher.combine(results, handle), weights)
        return hidden, cache


def make_layer(kernels: NativeKernels | ReferenceKernels, index: int) -> LayerWeights:
    seed = 1000 * index
    experts = [
        Expert(
            make_matrix(kernels, 2 * INTERMEDIATE, H, seed + 100 + 10 * expert),
            make_matrix(kernels, H, INTERMEDIATE, seed + 105 + 10 * expert),
        )
        for expert in range(NUM_EXPERTS)
    ]
    return LayerWeights(
        attention=make_attention(kernels, seed + 20),
        is_sliding=index == 1,
        cache_index=(0, 0, 1)[index],
        norm=make_norm(seed + 1),
        gate=Gate(randn(NUM_EXPERTS, H, seed=seed + 2), randn(NUM_EXPERTS, seed=seed + 3), NUM_CHOSEN),
        table=kernels.expert_table(experts),
        swiglu=SWIGLU,
    )


def make_attention(kernels: NativeKernels | ReferenceKernels, seed: int) -> AttentionWeights:
    width = (HEADS.num_heads + 2 * HEADS.num_kv_heads) * HEADS.head_dim
    return AttentionWeights(
        norm=make_norm(seed + 1),
        qkv=make_matrix(kernels, width, H, seed + 2),
        out=make_matrix(kernels, H, HEADS.num_heads * HEADS.head_dim, seed + 4),
        sinks=randn(HEADS.num_heads, seed=seed + 6),
    )


def make_plan(kernels: NativeKernels | ReferenceKernels, rows: Sequence[int], window: int | None):
    """Each row is a sequence of its own, at `POSITION`, with a block of its own for either kind of layer."""
    blocks = torch.tensor(rows, dtype=torch.int64) + (0 if window is None else MOST_ROWS)
    positions = torch.full_like(blocks, POSITION)
    angles = [randn(1, HEADS.head_dim // 2, seed=seed).expand(len(rows), -1).contiguous() for seed in (7, 8)]
    attention_rows = AttentionRows(
        positions=positions,
        sequence_index=torch.arange(len(rows)),
        slot_mapping=blocks * BLOCK_SIZE + POSITION,
        block_table=blocks.int()[:, None],
        cos=angles[0],
        sin=angles[1],
        window=window,
    )
    return kernels.plan_attention(attention_rows, HEADS, BLOCK_SIZE)


def make_cache() -> LayerCaches:
    shape = (2, 2 * MOST_ROWS, HEADS.num_kv_heads, BLOCK_SIZE, HEADS.head_dim)
    return LayerCaches(*(randn(*shape, seed=seed).bfloat16() for seed in (11, 12)))


HIDDEN = randn(MOST_ROWS, H, seed=9).bfloat16()


def assert_same(results: tuple[Tensor, LayerCaches], expected: tuple[Tensor, LayerCaches]) -> None:
    """Of rows, and of caches."""
    assert torch.equal(results[0], expected[0])
    assert all(map(torch.equal, results[1], expected[1]))


@pytest.mark.parametrize("num_rows", [0, 1, 2, 5, 70])
def test_layers_at_once_have_the_bits_of_their_parts(kernels, num_rows):
    for each in (kernels, ReferenceKernels(torch.bfloat16)):
        stack, rows = Stack(each), range(num_rows)
        assert_same(stack.at_once(HIDDEN, rows), stack.in_parts(HIDDEN, rows))


def test_a_row_gets_the_same_from_layers_in_any_batch_on_any_number_of_threads(kernels, other_kernels):
    together, _ = Stack(kernels).at_once(HIDDEN, range(40))
    for each in (kernels, other_kernels):
        stack = Stack(each)
        for rows in ([0], [39, 3], list(range(39, -1, -1))):
            assert torch.equal(stack.at_once(HIDDEN, rows)[0], together[rows])


def test_with_8_bit_activations_layers_have_the_same_bits_in_parts_batches_and_threads(coded_kernels):
    expected = Stack(coded_kernels[0]).at_once(HIDDEN, range(40))
    for kernels in coded_kernels:
        stack = Stack(kernels)
        assert_same(stack.in_parts(HIDDEN, range(40)), expected)
        for rows in ([0], [39, 3], list(range(39, -1, -1))):
            assert torch.equal(stack.at_once(HIDDEN, rows)[0], expected[0][rows])


def test_each_layer_tells_how_many_rows_chose_each_expert(kernels):
    stack = Stack(kernels)
    stack.at_once(HIDDEN, range(23))
    first, *others = stack.layers
    plan, (keys, values) = make_plan(kernels, range(23), None), make_cache()
    hidden = kernels.attention_layer(HIDDEN[:23].clone(), first.attention, plan, keys[0], values[0])
    _, _, expert_ids = kernels.gate(hidden, first.norm, first.gate)
    assert first.table.num_rows_per_expert == expert_ids.flatten().bincount(minlength=NUM_EXPERTS).tolist()
    for layer in others:
        assert sum(layer.table.num_rows_per_expert) == 23 * NUM_CHOSEN


def attention_case(kernels, num_rows: int, window: int | None):
    """Weights, plan, and a cache of which the first half of the positions is written."""
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
    return make_attention(kernels, 0), plan, [randn(*shape, seed=seed).bfloat16() for seed in (11, 12)]


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
