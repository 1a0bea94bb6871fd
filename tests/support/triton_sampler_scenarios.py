"""What `triton_compile` launches of the sampler: the published models' vocabulary, on meta tensors."""

from __future__ import annotations

from types import SimpleNamespace

import torch

from gptoss_ray.kernels.triton.sampler import TritonSampler
from tests.support.triton_scenarios import values

VOCAB_SIZE = 201_088


def draws() -> None:
    """A batch of draws."""
    dtypes = {
        "temperature": torch.float32,
        "top_k": torch.int32,
        "top_p": torch.float64,
        "min_p": torch.float32,
        "uniform": torch.float64,
    }
    inputs = SimpleNamespace(**{name: values(256, dtype=dtype) for name, dtype in dtypes.items()})
    sampler = TritonSampler(VOCAB_SIZE, [200_000], torch.device("meta"))
    sampler.draw(values(256, VOCAB_SIZE, dtype=torch.float32), inputs)
