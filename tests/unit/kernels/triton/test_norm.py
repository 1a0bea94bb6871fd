from __future__ import annotations

import torch

from gptoss_ray.kernels import reference
from gptoss_ray.kernels.kernels import Norm
from gptoss_ray.kernels.triton.norm import rms_norm


def test_rows_are_normed_as_by_the_reference_whatever_their_number():
    x, norm = torch.randn(5, 96).bfloat16(), Norm(torch.rand(96), 1e-5)
    normed = rms_norm(x, norm)
    torch.testing.assert_close(normed, reference.rms_norm(x, norm.weight, norm.eps))
    assert torch.equal(rms_norm(x[2:3], norm), normed[2:3])
    assert rms_norm(x[:0], norm).shape == (0, 96)
