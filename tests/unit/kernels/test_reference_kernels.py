"""What the reference adds to its functions: rows of any number, packed weights, wide matrices."""

from __future__ import annotations

import pytest
import torch

from gptoss_ray.checkpoint.mxfp4 import dequantize, quantize
from gptoss_ray.kernels.kernels import Expert, Gate, Mxfp4, Norm, SwiGLU
from gptoss_ray.kernels.reference_kernels import ReferenceKernels

SWIGLU = SwiGLU(1.702, 7.0)


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def make_matrix(kernels, weight, bias=None, *, is_wide=False):
    return kernels.matrix(kernels.pack(weight, bias, is_wide=is_wide), tuple(weight.shape), is_wide=is_wide)


@pytest.mark.parametrize("num_rows", [0, 1, 16, 17])
def test_any_number_of_rows_goes_through_every_function(num_rows):
    kernels = ReferenceKernels(torch.float32)
    x, norm = randn(num_rows, 32), Norm(torch.ones(32), 1e-5)
    matrix = make_matrix(kernels, randn(32, 32, seed=1), randn(32, seed=2))
    normed, weights, expert_ids = kernels.gate(x, norm, Gate(randn(4, 32), randn(4), 2))
    assert kernels.norm_linear(x, norm, matrix).shape == normed.shape == (num_rows, 32)
    assert weights.shape == expert_ids.shape == (num_rows, 2)
    expected = x @ matrix.weight.T + matrix.bias + normed
    torch.testing.assert_close(kernels.linear_add(x, matrix, normed.clone()), expected)
    slots = randn(num_rows, 2, 32)
    expected = x + (weights[..., None] * slots).sum(1)
    torch.testing.assert_close(kernels.combine(x.clone(), slots, weights), expected)


def test_the_gate_weighs_the_experts_with_the_largest_logits_by_their_softmax():
    kernels = ReferenceKernels(torch.bfloat16)
    x, gate = randn(5, 32).bfloat16(), Gate(randn(6, 32, seed=1), randn(6, seed=2), 3)
    normed, weights, expert_ids = kernels.gate(x, Norm(torch.ones(32), 1e-5), gate)
    logits = normed.float() @ gate.weight.T + gate.bias
    assert torch.equal(expert_ids, logits.argsort(dim=-1, descending=True)[:, :3])
    torch.testing.assert_close(weights, logits.gather(1, expert_ids).softmax(-1))


def test_wide_matrices_multiply_in_float32_and_do_not_round_their_results():
    kernels = ReferenceKernels(torch.bfloat16)
    weight, norm = randn(48, 32), Norm(torch.ones(32), 1e-5)
    x = randn(3, 32).bfloat16()
    wide = kernels.norm_linear(x, norm, make_matrix(kernels, weight, is_wide=True))
    narrow = kernels.norm_linear(x, norm, make_matrix(kernels, weight))
    assert (wide.dtype, narrow.dtype) == (torch.float32, torch.bfloat16)
    torch.testing.assert_close(wide, narrow.float(), atol=0.1, rtol=0.1)
    assert not torch.equal(wide, wide.bfloat16().float())


@pytest.mark.parametrize("unpacks", [True, False])
def test_packed_weights_are_copies_from_which_the_same_matrix_is_made_again(unpacks):
    kernels = ReferenceKernels(torch.bfloat16, unpacks_mxfp4=unpacks)
    stored = Mxfp4(*quantize(randn(16, 64)))
    expected = dequantize(stored.blocks, stored.scales)
    matrix = kernels.matrix(kernels.pack(stored, randn(16)), stored.shape)
    again = kernels.matrix(matrix.tensors, stored.shape)
    stored.blocks.zero_()
    assert torch.equal(matrix.weight, expected)
    assert torch.equal(again.weight, expected)
    assert ("weight" in matrix.tensors) == unpacks


def test_experts_without_rows_are_passed_over():
    kernels = ReferenceKernels(torch.float32)
    experts = [
        Expert(
            make_matrix(kernels, randn(64, 32, seed=seed), randn(64)),
            make_matrix(kernels, randn(32, 32, seed=seed + 9), randn(32)),
        )
        for seed in range(3)
    ]
    rows = randn(20, 32)
    both = kernels.experts(rows, [17, 0, 3], kernels.expert_table(experts), SWIGLU)
    first = kernels.experts(rows[:17], [17], kernels.expert_table(experts[:1]), SWIGLU)
    last = kernels.experts(rows[17:], [3], kernels.expert_table(experts[2:]), SWIGLU)
    assert torch.equal(both, torch.cat((first, last)))
