from __future__ import annotations

import pytest
import torch

from gptoss_ray.kernels.reference_kernels import ReferenceKernels
from gptoss_ray.kernels.triton.experts import ExpertMatmuls, InPlace
from gptoss_ray.kernels.triton.last_arrival import ArrivalCounters
from gptoss_ray.kernels.triton.routing import route
from gptoss_ray.kernels.triton.tiles import Tile
from gptoss_ray.kernels.triton.triton_kernels import TritonKernels
from tests.support.triton_compile import compile_launches
from tests.support.triton_layers import SWIGLU, packed_expert, random_experts

CPU = torch.device("cpu")
COUNTS = [3, 0, 18, 1]


def tables(hidden: int, width: int, *, is_mxfp4: bool = True):
    """The same experts for the reference and for Triton."""
    stored = random_experts(len(COUNTS), hidden, width, is_mxfp4=is_mxfp4)
    reference, triton = ReferenceKernels(torch.bfloat16), TritonKernels(CPU)
    return [
        (kernels, kernels.expert_table([packed_expert(kernels, expert) for expert in stored]))
        for kernels in (reference, triton)
    ]


@pytest.mark.parametrize("is_mxfp4", [True, False])
@pytest.mark.parametrize(("hidden", "width"), [(384, 192), (96, 32)])
def test_grouped_rows_get_what_the_reference_gives(hidden, width, is_mxfp4):
    (reference, wanted), (triton, table) = tables(hidden, width, is_mxfp4=is_mxfp4)
    rows = torch.randn(sum(COUNTS), hidden).bfloat16()
    found = triton.experts(rows, COUNTS, table, SWIGLU)
    torch.testing.assert_close(found, reference.experts(rows, COUNTS, wanted, SWIGLU), rtol=0.02, atol=0.02)
    assert torch.equal(found, triton.experts(rows, torch.tensor(COUNTS, dtype=torch.int32), table, SWIGLU))


def test_a_row_has_the_same_bits_in_place_and_grouped_and_in_any_tile():
    _, (triton, table) = tables(192, 384)
    matmuls = ExpertMatmuls(ArrivalCounters(CPU))
    tokens, expert_ids = torch.randn(6, 192).bfloat16(), torch.stack([torch.randperm(4) for _ in range(6)])
    counts = expert_ids.flatten().bincount(minlength=4).int()
    ranks = torch.empty(24, dtype=torch.int32)
    for expert in range(4):
        places = (expert_ids.flatten() == expert).nonzero().squeeze(1)
        ranks[places[torch.randperm(len(places))]] = torch.arange(len(places), dtype=torch.int32)
    in_place = matmuls(tokens, 24, table, InPlace(expert_ids), SWIGLU)
    for rows in (16, 32):
        routing = route(counts, 24, rows, expert_ids, ranks)
        grouped = matmuls(tokens, 24, table, routing, SWIGLU, tile=Tile(64, rows, 4, 3))
        assert torch.equal(in_place, grouped)
    alone = matmuls(tokens[2:3], 4, table, InPlace(expert_ids[2:3]), SWIGLU)
    assert torch.equal(alone, in_place.view(6, 4, -1)[2])
    by_expert = triton.experts(tokens[[1, 1]], [0, 1, 0, 1], table, SWIGLU)
    slots = [int((expert_ids[1] == expert).nonzero()) for expert in (1, 3)]
    assert torch.equal(by_expert, in_place.view(6, 4, -1)[1, slots])


def test_rows_behind_those_that_are_counted_are_not_computed():
    _, (triton, table) = tables(64, 64)
    rows = torch.randn(8, 64).bfloat16()
    rows[5:] = torch.nan
    counted = triton.experts(rows, torch.tensor([2, 0, 3, 0], dtype=torch.int32), table, SWIGLU)
    assert torch.equal(counted[:5], triton.experts(rows[:5], [2, 0, 3, 0], table, SWIGLU))


def test_experts_of_different_shapes_and_wrong_counts_are_refused():
    _, (triton, table) = tables(64, 64)
    _, (_, other) = tables(64, 32)
    with pytest.raises(ValueError, match="expert 4 has matrices"):
        triton.expert_table([*table.experts, *other.experts])
    with pytest.raises(ValueError, match="add up to the 3 rows"):
        triton.experts(torch.randn(3, 64).bfloat16(), [1, 1, 0, 0], table, SWIGLU)
    with pytest.raises(ValueError, match=r"int64 \(4,\); int32"):
        triton.experts(torch.randn(3, 64).bfloat16(), torch.tensor([1, 1, 1, 0]), table, SWIGLU)


def test_experts_in_8_bits_are_refused():
    triton = TritonKernels(CPU, dense_weights="int8")
    stored = random_experts(2, 64, 64, is_mxfp4=False)
    with pytest.raises(ValueError, match="in int8; it must be in MXFP4 or bfloat16"):
        triton.expert_table([packed_expert(triton, each) for each in stored])


def test_no_rows_give_no_rows():
    _, (triton, table) = tables(64, 64)
    assert triton.experts(torch.empty(0, 64).bfloat16(), [0] * 4, table, SWIGLU).shape == (0, 64)


@pytest.mark.sm90
@pytest.mark.timeout(1200)
def test_experts_at_the_published_shapes_use_the_tensor_cores_of_a_hopper_and_spill_nothing():
    kernels = compile_launches("tests.support.triton_scenarios:experts")
    assert {kernel.name for kernel in kernels} == {"_route_kernel", "gate_up_kernel", "down_kernel"}
    for kernel in kernels:
        kernel.assert_fits()
        assert kernel.has_wgmma == (kernel.name != "_route_kernel") and not kernel.has_mma, kernel
        # Codes go from memory to the instruction in its own layout, and sums stay where they are.
        assert kernel.loop_conversions == 0, kernel
