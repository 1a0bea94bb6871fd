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


def network(device, *, meets_other_ranks=False):
    embedding = SimpleNamespace(device=torch.device(device))
    return SimpleNamespace(embedding=embedding, meets_other_ranks=meets_other_ranks)


def test_a_rank_alone_on_a_card_has_an_executor_of_its_own():
    assert find_executor(network("cuda"), EngineConfig(), ()) is not None


@pytest.mark.parametrize("alone_or_not", [False, True])
def test_on_a_cpu_steps_are_computed_when_they_are_launched(alone_or_not):
    assert find_executor(network("cpu", meets_other_ranks=alone_or_not), EngineConfig(), ()) is None
    assert isinstance(Engine(FakeTransformer(), small_config()).executor, EagerExecutor)


def test_in_a_group_steps_are_computed_when_they_are_launched_on_any_device():
    assert find_executor(network("cuda", meets_other_ranks=True), EngineConfig(), ()) is None
