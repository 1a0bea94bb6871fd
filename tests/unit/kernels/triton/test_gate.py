from __future__ import annotations

import pytest
import torch

from gptoss_ray.kernels.kernels import Gate
from gptoss_ray.kernels.reference_kernels import ReferenceKernels
from gptoss_ray.kernels.triton.gate import choose_experts
from gptoss_ray.kernels.triton.last_arrival import ArrivalCounters
from gptoss_ray.kernels.triton.routing import max_tiles, route
from tests.support.triton_compile import compile_launches
from tests.support.triton_layers import random_gate, random_norm

CPU = torch.device("cpu")


@pytest.fixture
def counters():
    return ArrivalCounters(CPU)


@pytest.mark.parametrize(("num_experts", "num_chosen", "num_rows"), [(32, 4, 3), (10, 3, 5), (4, 4, 70)])
def test_the_gate_norms_and_chooses_as_the_reference(counters, num_experts, num_chosen, num_rows):
    norm, gate = random_norm(96), random_gate(num_experts, 96, num_chosen)
    x = torch.randn(num_rows, 96).bfloat16()
    normed, weights, expert_ids = ReferenceKernels(torch.bfloat16).gate(x, norm, gate)
    found = choose_experts(x, norm, gate, counters)
    torch.testing.assert_close(found.normed, normed)
    assert torch.equal(found.expert_ids, expert_ids)
    torch.testing.assert_close(found.weights, weights, rtol=1e-4, atol=1e-4)


def test_a_row_chooses_the_same_with_the_same_bits_among_any_others(counters):
    norm, gate, x = random_norm(96), random_gate(8, 96), torch.randn(70, 96).bfloat16()
    whole = choose_experts(x, norm, gate, counters)
    for rows in (slice(5, 6), slice(40, 70)):
        part = choose_experts(x[rows], norm, gate, counters)
        assert all(torch.equal(a, b[rows]) for a, b in zip(part[:3], whole[:3], strict=True))


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # numpy's, of the interpreter
def test_of_equal_logits_the_lowest_expert_comes_first_and_ids_are_valid_whatever_the_logits(counters):
    x, norm = torch.randn(2, 64).bfloat16(), random_norm(64)
    equal = choose_experts(x, norm, Gate(torch.zeros(6, 64), torch.zeros(6), 4), counters)
    assert equal.expert_ids.tolist() == [[0, 1, 2, 3]] * 2
    assert torch.equal(equal.weights, torch.full((2, 4), 0.25))
    x[0] = torch.nan
    broken = choose_experts(x, norm, random_gate(6, 64), counters)
    assert int(broken.expert_ids.min()) >= 0 and int(broken.expert_ids.max()) < 6


@pytest.mark.parametrize("rows_per_tile", [16, 32])
def test_counted_rows_are_routed_each_to_one_place_of_its_expert(counters, rows_per_tile):
    norm, gate, x = random_norm(64), random_gate(5, 64), torch.randn(70, 64).bfloat16()
    counts = torch.zeros(5, dtype=torch.int32)
    chosen = choose_experts(x, norm, gate, counters, counts)
    ids = chosen.expert_ids.flatten()
    assert torch.equal(counts, ids.bincount(minlength=5).int())
    routing = route(counts, 280, rows_per_tile, chosen.expert_ids, chosen.ranks)
    assert routing.order.sort().values.tolist() == list(range(280))
    assert routing.num_tiles == max_tiles(280, 5, rows_per_tile)
    met = []
    for expert, first, end in routing.tiles.tolist():
        if expert >= 0:
            rows = routing.order[first : min(end, first + rows_per_tile)].tolist()
            assert rows and all(int(ids[row]) == expert for row in rows)
            met += rows
    assert sorted(met) == list(range(280))


@pytest.mark.timeout(1200)
def test_the_gate_compiles_for_a_hopper_at_the_published_shapes():
    for kernel in compile_launches("tests.support.triton_scenarios:gate"):
        kernel.assert_fits()
