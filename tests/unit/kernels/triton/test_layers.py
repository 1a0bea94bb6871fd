"""Whole layers: what one call makes of them, and what their parts make one after the other."""

from __future__ import annotations

import pytest
import torch

from gptoss_ray.kernels import int8
from gptoss_ray.kernels.kernels import AttentionPlans, AttentionWeights, HeadShape, LayerCaches, LayerWeights
from gptoss_ray.kernels.reference_kernels import ReferenceKernels
from gptoss_ray.kernels.triton.triton_kernels import TritonKernels
from tests.support.paged_rows import PagedRows
from tests.support.triton_layers import (
    SWIGLU,
    packed_expert,
    random_experts,
    random_gate,
    random_matrix,
    random_norm,
)

HIDDEN, WIDTH, NUM_EXPERTS, NUM_LAYERS = 64, 32, 4, 2
HEADS = HeadShape(num_heads=4, num_kv_heads=2, head_dim=16)
WINDOW = 20


class Network:
    """Random layers, as each kind of kernels takes them, and rows of two sequences."""

    def __init__(self) -> None:
        torch.manual_seed(5)
        qkv_width, width = (HEADS.num_heads + 2 * HEADS.num_kv_heads) * HEADS.head_dim, 64
        self.stored = [
            (
                (random_matrix(qkv_width, HIDDEN, is_mxfp4=False), torch.randn(qkv_width).bfloat16()),
                (random_matrix(HIDDEN, width, is_mxfp4=False), torch.randn(HIDDEN).bfloat16()),
                random_norm(HIDDEN),
                random_norm(HIDDEN),
                random_gate(NUM_EXPERTS, HIDDEN, 2),
                random_experts(NUM_EXPERTS, HIDDEN, WIDTH, is_mxfp4=True),
                torch.randn(HEADS.num_heads),
            )
            for _ in range(NUM_LAYERS)
        ]
        self.paged = PagedRows([30, 5], HEADS, 16)
        self.rows = [row for sequence in range(2) for row in self.paged.all_rows(sequence)]
        self.hidden = torch.randn(len(self.rows), HIDDEN).bfloat16()

    def layers(self, kernels, held=lambda weight: weight) -> list[LayerWeights]:
        """`held` is applied to the weights of attention."""

        def matrix(weight, bias):
            return kernels.matrix(kernels.pack(held(weight), bias), tuple(weight.shape))

        return [
            LayerWeights(
                attention=AttentionWeights(norm, matrix(*qkv), matrix(*out), sinks),
                is_sliding=index % 2 == 1,
                cache_index=index // 2,
                norm=second_norm,
                gate=gate,
                table=kernels.expert_table([packed_expert(kernels, expert) for expert in experts]),
                swiglu=SWIGLU,
            )
            for index, (qkv, out, norm, second_norm, gate, experts, sinks) in enumerate(self.stored)
        ]

    def step(self, kernels, picked):
        """The plans, cache and hidden states of the picked rows, over a new cache full of NaN."""
        rows = [self.rows[index] for index in picked]
        plans = AttentionPlans(
            *(
                kernels.plan_attention(self.paged.batch(rows, window), HEADS, self.paged.block_size)
                for window in (None, WINDOW)
            )
        )
        caches = [self.paged.cache(torch.bfloat16) for _ in range(2)]
        keys, values = (torch.stack([cache[kind] for cache in caches]) for kind in range(2))
        return self.hidden[picked].clone(), plans, LayerCaches(keys, values)


@pytest.fixture(scope="module")
def network():
    return Network()


def in_one_call(network, kernels, picked, **held):
    hidden, plans, cache = network.step(kernels, picked)
    return kernels.layers(hidden, kernels.layer_stack(network.layers(kernels, **held)), plans, cache)


def part_by_part(network, kernels, picked):
    """As ranks do that exchange tokens."""
    hidden, plans, cache = network.step(kernels, picked)
    for layer in network.layers(kernels):
        plan = plans.sliding if layer.is_sliding else plans.full
        keys, values = cache.keys[layer.cache_index], cache.values[layer.cache_index]
        hidden = kernels.attention_layer(hidden, layer.attention, plan, keys, values)
        normed, weights, expert_ids = kernels.gate(hidden, layer.norm, layer.gate)
        order = expert_ids.flatten().argsort(stable=True)
        counts = expert_ids.flatten().bincount(minlength=NUM_EXPERTS).tolist()
        grouped = kernels.experts(normed[order // expert_ids.shape[1]], counts, layer.table, layer.swiglu)
        slots = torch.empty_like(grouped).index_copy_(0, order, grouped)
        hidden = kernels.combine(hidden, slots.view(*expert_ids.shape, -1), weights)
    return hidden


def as_int8(weight):
    return int8.dequantize(*int8.quantize(weight)).bfloat16()


@pytest.mark.parametrize(("dense_weights", "held"), [("bfloat16", {}), ("int8", {"held": as_int8})])
def test_all_layers_in_one_call_give_the_bits_of_their_parts_and_about_what_the_reference_gives(
    network, dense_weights, held
):
    everything = list(range(len(network.rows)))
    kernels = TritonKernels("cpu", dense_weights=dense_weights)
    whole = in_one_call(network, kernels, everything)
    assert torch.equal(whole, part_by_part(network, kernels, everything))
    wanted = in_one_call(network, ReferenceKernels(torch.bfloat16), everything, **held)
    # A choice of experts may turn at equal logits: a few rows may differ.
    near = (whole.float() - wanted.float()).abs().amax(-1) < 0.15
    assert near.float().mean() > 0.9


def test_a_short_sequence_alone_gets_the_bits_that_it_gets_in_a_batch(network):
    """Alone its experts run in place, in the batch grouped."""
    kernels = TritonKernels("cpu")
    whole = in_one_call(network, kernels, list(range(len(network.rows))))
    first = in_one_call(network, kernels, [30])
    assert torch.equal(first[0], whole[30])
    assert in_one_call(network, kernels, []).shape == (0, HIDDEN)


def test_kernels_refuse_what_others_made(network):
    triton, reference = TritonKernels("cpu"), ReferenceKernels(torch.bfloat16)
    layers = network.layers(reference)
    with pytest.raises(ValueError, match="must be one of TritonKernels"):
        triton.layer_stack(layers)
    with pytest.raises(ValueError, match="at least one"):
        triton.layer_stack([])
    with pytest.raises(ValueError, match="must be one of TritonKernels"):
        triton.norm_linear(network.hidden, layers[0].norm, layers[0].attention.out)
