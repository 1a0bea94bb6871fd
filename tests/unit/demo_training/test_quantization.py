from __future__ import annotations

import torch

from gptoss_ray.checkpoint.mxfp4 import dequantize, quantize
from gptoss_ray.demo_training.quantization import round_to_mxfp4


def test_training_rounds_exactly_as_the_checkpoint_will() -> None:
    noise = torch.randn(7, 64, generator=torch.Generator().manual_seed(0))
    values = noise * torch.logspace(-4, 4, 7)[:, None]
    assert torch.equal(round_to_mxfp4(values), dequantize(*quantize(values), torch.float32))


def test_what_was_rounded_stays_as_it_is() -> None:
    rounded = round_to_mxfp4(torch.randn(16, 32, generator=torch.Generator().manual_seed(1)))
    assert torch.equal(round_to_mxfp4(rounded), rounded)
