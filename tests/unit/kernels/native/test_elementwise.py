"""Native norm, gate, swiglu and combine against the reference, and to the bit against themselves."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from gptoss_ray.kernels.kernels import Expert, Gate, Norm, SwiGLU
from gptoss_ray.kernels.native.native_kernels import NativeKernels
from gptoss_ray.kernels.reference import rms_norm, swiglu, weighted_slot_sum

BF16 = torch.bfloat16
ROWS = 70


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def gate_of(hidden_size: int, num_experts: int, num_chosen: int) -> Gate:
    weight = randn(num_experts, hidden_size, seed=2) / hidden_size**0.5
    return Gate(weight, randn(num_experts, seed=3), num_chosen)


def norm_of(hidden_size: int) -> Norm:
    return Norm(1 + 0.1 * randn(hidden_size, seed=1), 1e-5)


@pytest.mark.parametrize("hidden_size", [32, 96, 1024, 2880])
def test_the_norm_is_that_of_the_reference(kernels, hidden_size):
    x, norm = randn(ROWS, hidden_size).to(BF16) * 3, norm_of(hidden_size)
    normed, _, _ = kernels.gate(x, norm, gate_of(hidden_size, 4, 1))
    torch.testing.assert_close(normed, rms_norm(x, norm.weight, norm.eps), rtol=2**-7, atol=0)


@pytest.mark.parametrize(
    ("hidden_size", "num_experts", "num_chosen"),
    [(32, 1, 1), (96, 7, 3), (64, 4, 4), (320, 33, 20), (2880, 32, 4), (2880, 128, 4)],
)
def test_the_gate_chooses_the_largest_logits_of_the_normed_rows(
    kernels, hidden_size, num_experts, num_chosen
):
    gate = gate_of(hidden_size, num_experts, num_chosen)
    x = randn(ROWS, hidden_size).to(BF16)
    normed, weights, expert_ids = kernels.gate(x, norm_of(hidden_size), gate)
    logits = (normed.double() @ gate.weight.double().T + gate.bias.double()).float()
    chosen, expected_ids = logits.topk(num_chosen)
    assert torch.equal(expert_ids, expected_ids)
    torch.testing.assert_close(weights, chosen.softmax(-1), rtol=1e-5, atol=1e-6)


def test_of_equal_logits_the_lowest_expert_comes_first(kernels):
    gate = Gate(torch.zeros(9, 32), torch.tensor([1.0, 2, 1, 3, 2, 1, 3, 0, 2]), 6)
    _, weights, expert_ids = kernels.gate(randn(2, 32).to(BF16), norm_of(32), gate)
    assert expert_ids.tolist() == [[3, 6, 1, 4, 8, 0]] * 2
    torch.testing.assert_close(weights[0], gate.bias[expert_ids[0]].softmax(-1))


def test_the_gate_names_distinct_experts_even_for_rows_that_are_no_numbers(kernels):
    x = randn(3, 32).to(BF16)
    x[1] = torch.nan
    _, weights, expert_ids = kernels.gate(x, norm_of(32), gate_of(32, 8, 4))
    assert all(len(set(ids)) == 4 and set(ids) <= set(range(8)) for ids in expert_ids.tolist())
    assert weights[[0, 2]].isfinite().all()


@pytest.mark.parametrize("num_experts", [5, 32])
def test_a_row_has_the_same_gate_in_any_batch_on_any_number_of_threads(kernels, other_kernels, num_experts):
    gate, norm = gate_of(2880, num_experts, 4), norm_of(2880)
    x = randn(ROWS, 2880).to(BF16)
    together = kernels.gate(x, norm, gate)
    for rows in ([0], [69], [5, 3], list(range(1, 20)), list(range(69, -1, -1))):
        for each in (kernels, other_kernels):
            for result, expected in zip(each.gate(x[rows], norm, gate), together, strict=True):
                assert torch.equal(result, expected[rows])


def swiglu_expert(kernels: NativeKernels, size: int) -> Expert:
    """An expert whose matrices only copy, so that swiglu alone is left: rows are [gates | ups]."""
    down = torch.zeros(2 * size, size)
    down[:size] = torch.eye(size)
    gate_up = kernels.matrix(kernels.pack(torch.eye(2 * size).to(BF16)), (2 * size, 2 * size))
    return Expert(gate_up, kernels.matrix(kernels.pack(down.to(BF16)), (2 * size, size)))


@pytest.mark.parametrize("size", [32, 96])
def test_swiglu_is_that_of_the_reference(kernels, size):
    x = (4 * randn(ROWS, 2 * size)).to(BF16)
    x[0], x[1, 0], x[2, 0], x[3, size] = 0, 1e30, -1e30, -1e30
    table = kernels.expert_table([swiglu_expert(kernels, size)])
    out = kernels.experts(x, [ROWS], table, SwiGLU(1.702, 7.0))
    assert not out[:, size:].any()
    torch.testing.assert_close(out[:, :size], swiglu(x, alpha=1.702, limit=7.0), rtol=2**-7, atol=1e-30)
    alone = torch.cat([kernels.experts(row, [1], table, SwiGLU(1.702, 7.0)) for row in x.split(1)])
    assert torch.equal(alone, out)


@pytest.mark.parametrize(("hidden_size", "num_slots"), [(32, 1), (96, 3), (2880, 4)])
def test_combine_has_the_bits_of_the_reference(kernels, other_kernels, hidden_size, num_slots):
    hidden = randn(ROWS, hidden_size).to(BF16)
    slots = randn(ROWS, num_slots, hidden_size, seed=1).to(BF16)
    weights = randn(ROWS, num_slots, seed=2).softmax(-1)
    expected = (hidden.float() + weighted_slot_sum(slots, weights)).to(BF16)
    for each in (kernels, other_kernels):
        assert torch.equal(each.combine(hidden.clone(), slots, weights), expected)
        assert torch.equal(each.combine(hidden[3:4].clone(), slots[3:4], weights[3:4]), expected[3:4])
