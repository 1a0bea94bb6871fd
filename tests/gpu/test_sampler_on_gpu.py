"""Draws on a card: the host's tokens but where two tokens' weights meet, and each row's own in any batch."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gptoss_ray.engine.draw import draw_token, keyed_uniform
from gptoss_ray.generation import SamplingParams
from gptoss_ray.kernels.triton.sampler import TritonSampler
from tests.support.draw_columns import draw_columns

pytestmark = pytest.mark.gpu
VOCAB_SIZE, NUM_ROWS = 201_088, 256
KINDS = [
    {"temperature": 0.0},
    {},
    {"temperature": 0.6, "top_p": 0.95},
    {"top_k": 50},
    {"top_k": 1000, "top_p": 0.9},
    {"min_p": 0.05},
    {"temperature": 2.0, "top_p": 0.999},
]
# exp and division differ from the host's in their last bits, weights by less than this share.
TOLERANCE = 1e-5


def make_rows():
    params = [SamplingParams(**KINDS[row % len(KINDS)]) for row in range(NUM_ROWS)]
    return [(each, keyed_uniform(7, 0, row)) for row, each in enumerate(params)]


def near(row, params, uniform):
    """Tokens that the host draws with uniforms hardly different."""
    scratch = np.empty_like(row)
    nearby = (max(0.0, uniform - TOLERANCE), uniform, min(1 - 2.0**-53, uniform + TOLERANCE))
    return {draw_token(row, params, each, scratch) for each in nearby}


@pytest.mark.parametrize("scale", [1.0, 5.0])
def test_tokens_are_those_of_the_host_and_a_rows_own(scale):
    logits = torch.randn(NUM_ROWS, VOCAB_SIZE, device="cuda") * scale
    rows = make_rows()
    sampler = TritonSampler(VOCAB_SIZE, range(200_019, VOCAB_SIZE), torch.device("cuda"))
    together = sampler.draw(logits, draw_columns(rows, "cuda")).tolist()
    for row in range(0, NUM_ROWS, 5):
        [alone] = sampler.draw(logits[[row]], draw_columns([rows[row]], "cuda")).tolist()
        assert alone == together[row]
    host = logits.cpu().numpy()
    host[:, 200_019:] = -np.inf
    for row, (params, uniform) in enumerate(rows):
        if params.temperature == 0.0:
            assert together[row] == host[row].argmax()
        else:
            assert together[row] in near(host[row], params, uniform), (row, params)
