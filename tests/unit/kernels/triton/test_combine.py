from __future__ import annotations

import pytest
import torch

from gptoss_ray.kernels.reference_kernels import ReferenceKernels
from gptoss_ray.kernels.triton.combine import combine
from gptoss_ray.kernels.triton.norm import rms_norm
from tests.support.triton_compile import compile_launches
from tests.support.triton_layers import random_norm


def test_slots_are_added_in_order_as_by_the_reference_to_the_bit_and_normed_as_by_the_norm():
    hidden, slots = torch.randn(5, 96).bfloat16(), torch.randn(5, 4, 96).bfloat16()
    weights, norm = torch.rand(5, 4), random_norm(96)
    wanted = ReferenceKernels(torch.bfloat16).combine(hidden.clone(), slots, weights)
    alone = hidden[2:3].clone()
    normed = combine(hidden, slots, weights, norm)
    assert torch.equal(hidden, wanted)
    assert torch.equal(normed, rms_norm(hidden, norm))
    assert combine(alone, slots[2:3], weights[2:3]) is None
    assert torch.equal(alone, hidden[2:3])
    assert combine(hidden[:0], slots[:0], weights[:0]) is None


@pytest.mark.timeout(1200)
def test_whatever_norms_a_row_adds_its_squares_in_the_same_layout():
    """What the last bits depend on, on a GPU: seen in what the compiler made of each kernel."""
    kernels = compile_launches("tests.support.triton_scenarios:norms")
    layouts = {kernel.reductions for kernel in kernels if kernel.reductions}
    assert {kernel.name for kernel in kernels} == {"_norm_kernel", "_combine_kernel"}
    assert len(layouts) == 1, layouts
    for kernel in kernels:
        kernel.assert_fits()
