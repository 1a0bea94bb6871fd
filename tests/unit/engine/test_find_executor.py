from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from gptoss_ray.config import EngineConfig
from gptoss_ray.engine.engine import Engine
from gptoss_ray.engine.find_executor import find_executor
from gptoss_ray.engine.step_executor import EagerExecutor
from tests.support.engine_runs import small_config
from tests.support.fake_transformer import FakeTransformer


def network(device, exchange=None):
    return SimpleNamespace(embedding=SimpleNamespace(device=torch.device(device)), exchange=exchange)


@pytest.mark.parametrize("exchange", [None, object()], ids=["alone", "in a group"])
def test_a_rank_with_a_card_has_an_executor_of_its_own(exchange):
    assert find_executor(network("cuda", exchange), EngineConfig(), ()) is not None


@pytest.mark.parametrize("exchange", [None, object()], ids=["alone", "in a group"])
def test_on_a_cpu_steps_are_computed_when_they_are_launched(exchange):
    assert find_executor(network("cpu", exchange), EngineConfig(), ()) is None
    assert isinstance(Engine(FakeTransformer(), small_config()).executor, EagerExecutor)
