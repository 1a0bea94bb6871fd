from __future__ import annotations

import pytest
import torch

from gptoss_ray.kernels.int8 import BLOCK, dequantize, quantize


def test_a_value_is_off_by_half_a_scale_at_most_and_each_block_has_its_own():
    magnitudes = torch.tensor([1e-3, 1.0, 50.0, 0.0]).repeat_interleave(BLOCK)
    values = (torch.randn(7, 4 * BLOCK) * magnitudes).bfloat16()
    codes, scales = quantize(values)
    assert (codes.dtype, scales.dtype, scales.shape) == (torch.int8, torch.float16, (7, 4))
    error = (dequantize(codes, scales) - values.float()).abs().view(7, 4, BLOCK).amax(-1)
    assert (error <= 0.51 * scales.float()).all()
    assert codes.view(7, 4, BLOCK).abs().amax(-1)[:, :3].eq(127).all()
    assert not codes[:, 3 * BLOCK :].any()


def test_what_exceeds_the_largest_scale_becomes_the_largest_code():
    codes, scales = quantize(torch.full((1, BLOCK), -3e38))
    assert codes.eq(-127).all()
    assert scales.isfinite().all()


def test_a_row_has_the_same_codes_among_any_others():
    values = torch.randn(20, 2 * BLOCK).bfloat16()
    codes, scales = quantize(values)
    alone_codes, alone_scales = quantize(values[7:8])
    assert torch.equal(alone_codes, codes[7:8])
    assert torch.equal(alone_scales, scales[7:8])


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_only_finite_weights_are_taken(bad):
    values = torch.zeros(3, 2 * BLOCK)
    values[2, 40] = bad
    with pytest.raises(ValueError, match="not finite"):
        quantize(values)


def test_blocks_are_whole():
    with pytest.raises(ValueError, match="multiple of 32"):
        quantize(torch.zeros(2, 40))
