"""The width of gpt-oss-20b, two layers (one of each kind), against transformers."""

from __future__ import annotations

import random

import pytest
import torch

from gptoss_ray.checkpoint.model_config import ModelConfig
from gptoss_ray.checkpoint.reader import CheckpointReader
from gptoss_ray.checkpoint.synthetic import write_checkpoint
from gptoss_ray.model.transformer import Transformer
from tests.support.backends import FLOAT32
from tests.support.paged import PagedSequences, whole_logits
from tests.support.transformers_oracle import Oracle

pytestmark = [pytest.mark.oracle, pytest.mark.timeout(1800)]


def test_two_layers_of_the_20b_width_agree_in_float32_and_stray_less_in_bfloat16(tmp_path):
    write_checkpoint(tmp_path, ModelConfig.published("gpt-oss-20b").replace(num_layers=2))
    rng = random.Random(0)
    tokens = [rng.randrange(199_000) for _ in range(200)]  # longer than the window of 128
    exact = Oracle(tmp_path).logits(tokens)
    rounded = Oracle(tmp_path, torch.bfloat16).logits(tokens)
    reader = CheckpointReader.open(tmp_path)

    transformer = Transformer.load(reader, FLOAT32, expert_memory_share=0.0)
    assert (whole_logits(transformer, tokens) - exact).abs().max() < 1e-3

    transformer = Transformer.load(reader, expert_memory_share=0.0)
    ours = whole_logits(transformer, tokens, block_size=32)
    assert (ours - exact).square().mean() <= 1.2**2 * (rounded - exact).square().mean()

    paged = PagedSequences(transformer, [tokens], block_size=32)
    chunks = [(0, 0, 150), (0, 150, 199), (0, 199, 200)]
    assert torch.equal(torch.cat([paged.run([chunk]) for chunk in chunks]), ours)
