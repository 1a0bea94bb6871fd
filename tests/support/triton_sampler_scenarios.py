"""What `triton_compile` launches of the sampler: the published models' vocabulary, on meta tensors."""

from __future__ import annotations

import torch

from gptoss_ray.generation import SamplingParams
from gptoss_ray.kernels.triton.sampler import TritonSampler
from tests.support.draw_columns import draw_columns
from tests.support.triton_scenarios import values

VOCAB_SIZE = 201_088


def draws() -> None:
    """A batch of draws."""
    rows = [(SamplingParams(), 0.5)] * 256
    inputs = draw_columns(rows, "meta")
    sampler = TritonSampler(VOCAB_SIZE, [200_000], torch.device("meta"))
    sampler.draw(values(256, VOCAB_SIZE, dtype=torch.float32), inputs)
