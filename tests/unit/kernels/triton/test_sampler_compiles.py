"""The sampler for sm_90 at the published models' vocabulary, compiled without a GPU."""

from __future__ import annotations

import pytest

from tests.support.triton_compile import compile_launches


@pytest.mark.timeout(900)
def test_the_draws_of_a_batch_are_six_launches_that_fit():
    kernels = compile_launches("tests.support.triton_sampler_scenarios:draws")
    assert sum(kernel.num_launches for kernel in kernels) == 6
    for kernel in kernels:
        kernel.assert_fits()
