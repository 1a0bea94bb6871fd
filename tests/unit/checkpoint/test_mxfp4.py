import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.integrations.mxfp4 import convert_moe_packed_tensors

from gptoss_ray.checkpoint import mxfp4

MAGNITUDES = [0, 0.5, 1, 1.5, 2, 3, 4, 6]
GRID = sorted({sign * value for value in MAGNITUDES for sign in (1, -1)})


def random_blocks(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    blocks = torch.randint(0, 256, (*shape, 16), dtype=torch.uint8, generator=generator)
    return blocks, torch.randint(100, 140, shape, dtype=torch.uint8, generator=generator)


def block_of(values):
    return torch.tensor([*values, *[0.0] * (32 - len(values))])


def quantized(values):
    return mxfp4.dequantize(*mxfp4.quantize(block_of(values)), torch.float32)[: len(values)].tolist()


def test_the_low_nibble_comes_first():
    blocks = torch.zeros(1, 16, dtype=torch.uint8)
    blocks[0, 0] = 0xD2  # low nibble 2 is 1.0, high nibble 13 is -3.0
    values = mxfp4.dequantize(blocks, torch.tensor([128], dtype=torch.uint8), torch.float32)
    assert values[:3].tolist() == [2.0, -6.0, 0.0]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_dequantize_agrees_with_the_definition(dtype):
    blocks, scales = random_blocks(3, 5)
    values = mxfp4.dequantize(blocks, scales, dtype).view(3, 5, 16, 2)
    assert values.dtype == dtype
    for row, group, byte, half in [(0, 0, 0, 0), (2, 4, 15, 1), (1, 3, 7, 0), (1, 2, 9, 1)]:
        code = int(blocks[row, group, byte]) >> (4 * half) & 0xF
        sign = -1 if code & 8 else 1
        expected = sign * MAGNITUDES[code & 7] * 2.0 ** (int(scales[row, group]) - 127)
        assert values[row, group, byte, half].item() == expected


def test_dequantize_agrees_with_transformers():
    blocks, scales = random_blocks(2, 6, 4)
    theirs = convert_moe_packed_tensors(blocks, scales, dtype=torch.float32).transpose(1, 2)
    assert torch.equal(mxfp4.dequantize(blocks, scales, torch.float32), theirs)


def test_scale_255_is_not_a_number_and_the_extremes_are_exact():
    blocks = torch.full((3, 16), 0x11, dtype=torch.uint8)
    values = mxfp4.dequantize(blocks, torch.tensor([0, 254, 255], dtype=torch.uint8)).view(3, 32)[:, 0]
    assert values[:2].tolist() == [2.0**-128, 2.0**126]
    assert values[2].isnan()


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 2**32), st.integers(0, 252))
def test_whatever_dequantize_returns_comes_back_exactly(seed, scale):
    blocks, _ = random_blocks(4, seed=seed)
    values = mxfp4.dequantize(blocks, torch.full((4,), scale, dtype=torch.uint8), torch.float32)
    again = mxfp4.dequantize(*mxfp4.quantize(values), torch.float32)
    assert torch.equal(values.view(torch.int32), again.view(torch.int32))


@settings(deadline=None, max_examples=50)
@given(st.lists(st.floats(-6, 6, width=32), min_size=1, max_size=31))
def test_quantize_takes_the_nearest_value_of_the_grid(values):
    # 4 fixes the scale at 1, so that the grid is the e2m1 values themselves.
    for value, found in zip(values, quantized([*values, 4.0]), strict=False):
        assert abs(found - value) == min(abs(point - value) for point in GRID)


def test_ties_go_to_the_even_code_and_large_values_saturate():
    ties = [0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0, -0.25, -0.75, 7.9]
    assert quantized(ties) == [0.0, 1.0, 1.0, 2.0, 2.0, 4.0, 4.0, -0.0, -1.0, 6.0]


def test_the_scale_follows_the_largest_value():
    scales = [int(mxfp4.quantize(block_of([value]))[1]) for value in (1.0, 3.99, 4.0, 2.0**-126, 0.0)]
    assert scales == [125, 126, 127, 0, 0]


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="multiple of 32"):
        mxfp4.quantize(torch.zeros(2, 40))
    with pytest.raises(ValueError, match="finite"):
        mxfp4.quantize(block_of([float("nan")]))
    with pytest.raises(ValueError, match="do not fit"):
        mxfp4.dequantize(torch.zeros(2, 16, dtype=torch.uint8), torch.zeros(3, dtype=torch.uint8))
