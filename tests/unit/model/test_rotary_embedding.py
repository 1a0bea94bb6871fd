from __future__ import annotations

import math

import pytest
import torch

from gptoss_ray.checkpoint.model_config import ModelConfig
from gptoss_ray.checkpoint.synthetic import tiny_config
from gptoss_ray.model.rotary_embedding import RotaryEmbedding, inverse_frequencies, yarn_concentration
from tests.support.threads import torch_threads

PUBLISHED = ModelConfig.published("gpt-oss-20b")


def test_fast_pairs_keep_their_frequency_and_slow_ones_are_divided_by_the_factor():
    frequencies = inverse_frequencies(PUBLISHED).double()
    unscaled = 150000.0 ** -(torch.arange(0, 64, 2).double() / 64)
    ratio = frequencies / unscaled
    # Pair index at which a dimension turns 32 times and once within 4096 positions.
    low, high = (64 * math.log(4096 / (turns * 2 * math.pi)) / (2 * math.log(150000)) for turns in (32, 1))
    assert 8 < low < 9 and 17 < high < 18
    torch.testing.assert_close(ratio[:9], torch.ones(9).double(), atol=1e-5, rtol=0)
    torch.testing.assert_close(ratio[18:], torch.full((14,), 1 / 32).double(), atol=1e-6, rtol=0)
    kept = 1 - (torch.arange(9, 18).double() - low) / (high - low)
    torch.testing.assert_close(ratio[9:18], kept + (1 - kept) / 32, atol=1e-5, rtol=0)


def test_the_concentration_is_multiplied_into_cos_and_sin():
    assert yarn_concentration(32.0) == pytest.approx(0.1 * math.log(32) + 1)
    assert yarn_concentration(1.0) == 1.0
    cos, sin = RotaryEmbedding(PUBLISHED.replace(max_context=64)).rows(torch.tensor([0, 5]))
    assert cos.shape == sin.shape == (2, 32)
    torch.testing.assert_close(cos.square() + sin.square(), torch.full((2, 32), 1.3465735903**2))


def test_an_unscaled_model_has_plain_rotary_frequencies():
    config = tiny_config(rope_scaling_factor=1.0)
    expected = 150000.0 ** -(torch.arange(0, 16, 2) / 16)
    torch.testing.assert_close(inverse_frequencies(config), expected)


def test_a_position_has_the_same_bits_with_any_number_of_threads_and_up_to_the_last_of_the_context():
    with torch_threads(1):
        one = RotaryEmbedding(PUBLISHED)
    with torch_threads(2):
        two = RotaryEmbedding(PUBLISHED)
    positions = torch.tensor([0, 1, 4097, 65536, 131071])
    for a, b in zip(one.rows(positions), two.rows(positions), strict=True):
        assert torch.equal(a, b)
    angles = positions.float()[:, None] * inverse_frequencies(PUBLISHED)
    torch.testing.assert_close(one.rows(positions)[0], angles.cos() * yarn_concentration(32.0))
