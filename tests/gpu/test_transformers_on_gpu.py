"""transformers on a card, by every way of `bench gpu` that needs no download. Never run on a GPU."""

from __future__ import annotations

import pytest
import torch

from gptoss_ray.bench import transformers_model
from gptoss_ray.bench.device_checkpoint import DeviceCheckpoint
from gptoss_ray.bench.engine_cases import DecodeCase
from gptoss_ray.bench.transformers_under_test import PeerUsages, TransformersUnderTest
from gptoss_ray.checkpoint.model_config import ModelConfig

pytestmark = pytest.mark.gpu

CARD = torch.device("cuda")
MODEL = ModelConfig.published("gpt-oss-20b").replace(num_layers=2)
USAGES = PeerUsages.on(CARD, "bfloat16", has_hub_kernels=False)


@pytest.fixture(scope="module")
def theirs():
    return TransformersUnderTest(transformers_model.build(DeviceCheckpoint(MODEL, CARD), CARD))


@pytest.mark.parametrize("usage", USAGES.prompts, ids=str)
def test_every_way_reads_a_prompt(theirs, usage):
    theirs.use(usage)
    assert theirs.prefill(300) > 0


@pytest.mark.parametrize("usage", USAGES.decode, ids=str)
def test_every_way_decodes_behind_a_filled_cache(theirs, usage):
    theirs.use(usage)
    seconds = theirs.steps(DecodeCase(4, 300), 8)
    assert len(seconds) == 8
    assert min(seconds) > 0
