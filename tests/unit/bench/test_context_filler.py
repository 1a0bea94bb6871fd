from __future__ import annotations

import pytest
import torch

from gptoss_ray.bench.engine_cases import DecodeCase, EngineUnderTest, engine_config
from gptoss_ray.bench.synthetic_folder import synthetic_folder
from gptoss_ray.checkpoint.model_config import ModelConfig
from gptoss_ray.config import EngineConfig, ServedModelConfig
from gptoss_ray.ranks.engine_loader import load_engine


@pytest.fixture
def under_test(tmp_path) -> EngineUnderTest:
    folder = synthetic_folder("tiny", cache=tmp_path)
    model = ModelConfig.from_folder(folder)
    base = EngineConfig(kernels="torch", max_num_batched_tokens=32, kv_block_size=16)
    config = engine_config(base, model, [DecodeCase(5, 100)], num_steps=4)
    served = ServedModelConfig(name="bench", checkpoint=str(folder), engine=config)
    return EngineUnderTest(load_engine(served, 0, None, (), lambda _: None), model)


def test_streams_decode_with_the_real_network_behind_a_context_of_noise(under_test, monkeypatch):
    network = under_test.engine.transformer
    rows: list[int] = []
    forward = type(network).forward

    def counted(self, batch, kv_cache):
        rows.append(batch.num_tokens)
        # What the rows see was filled with noise: no key is left at zero.
        assert batch.positions.min() >= 100
        keys = kv_cache.keys(1)[batch.block_tables_full[0, :6].long()]
        assert torch.count_nonzero(keys) == keys.numel()
        return forward(self, batch, kv_cache)

    monkeypatch.setattr(type(network), "forward", counted)
    timings = under_test.decode(DecodeCase(5, 100), num_steps=4)
    assert len(timings.seconds) == 4
    assert rows == [5] * 6
    assert under_test.engine.transformer is network
    assert under_test.engine.stats().num_running == 0


def test_several_cases_follow_each_other_on_one_engine(under_test):
    for _ in range(3):
        assert under_test.prefill(70) > 0
        assert len(under_test.decode(DecodeCase(2, 30), num_steps=2).seconds) == 2
    assert under_test.engine.stats().num_preemptions == 0
