from __future__ import annotations

import pytest
import torch

from gptoss_ray.bench.device_checkpoint import DeviceCheckpoint
from gptoss_ray.bench.engine_cases import DecodeCase, EngineUnderTest
from gptoss_ray.bench.gpu_parts import decode_batch, greedy_draws, measure_parts
from gptoss_ray.checkpoint.layout import canonical_shapes
from gptoss_ray.checkpoint.synthetic import tiny_config
from gptoss_ray.config import EngineConfig
from gptoss_ray.engine.engine import Engine
from gptoss_ray.kvcache.kv_cache import KVCache
from gptoss_ray.model.transformer import Transformer
from gptoss_ray.planner.gpu_steps import Ceilings, decode_step
from tests.support.engine_runs import small_config
from tests.support.recorded_stream import HostSampler, RecordedStream, on_stream

MODEL = tiny_config(num_layers=2)
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def transformer():
    return Transformer.load(DeviceCheckpoint(MODEL, CPU), EngineConfig(kernels="torch"))


@pytest.fixture
def kv_cache(transformer):
    shape = (16, MODEL.num_key_value_heads, MODEL.head_dim)
    return KVCache(64, *shape, layer_types=MODEL.layer_types, dtype=transformer.dtype)


def test_weights_made_on_the_device_have_the_shapes_of_a_checkpoint_and_are_the_same_again():
    checkpoint = DeviceCheckpoint(MODEL, CPU, seed=3)
    for name, shape in canonical_shapes(MODEL).items():
        tensor = checkpoint.read(name)
        assert tuple(tensor.shape) == shape
        assert checkpoint.has(name)
        assert torch.equal(tensor, DeviceCheckpoint(MODEL, CPU, seed=3).read(name))
    name = "layers.0.moe.gate.weight"
    assert not torch.equal(checkpoint.read(name), DeviceCheckpoint(MODEL, CPU, seed=4).read(name))
    assert not checkpoint.has("layers.9.moe.gate.weight")


def test_experts_made_apart_differ():
    checkpoint = DeviceCheckpoint(MODEL, CPU)
    first, second = (
        checkpoint.read("layers.0.experts.down.blocks", slice(number, number + 1)) for number in (0, 1)
    )
    assert first.shape == second.shape
    assert not torch.equal(first, second)


def test_logits_of_made_up_weights_are_of_order_one(transformer, kv_cache):
    logits = transformer.forward(decode_batch(DecodeCase(4, 40), kv_cache), kv_cache)
    assert 0.2 < float(logits.std()) < 5


def test_all_parts_of_a_step_are_timed_and_cost_all_of_its_kernels_but_the_small_ones(transformer, kv_cache):
    case, names = DecodeCase(3, 40), []

    def time_work(work):
        work()
        names.append(work.__name__)
        return float(len(names))

    parts = measure_parts(transformer, kv_cache, HostSampler(), case, time_work)
    assert names == ["attention", "layers", "unembedding", "draw"]
    assert [part.name for part in parts] == ["attention layers", "experts", "unembedding", "draw"]
    assert all(part.seconds > 0 for part in parts)
    whole = decode_step(MODEL, 3, 40)
    assert whole.num_launches - sum(part.cost.num_launches for part in parts) == 14


def test_the_experts_are_what_all_layers_take_beyond_their_attention(transformer, kv_cache):
    seconds = {"attention": 2.0, "layers": 5.0, "unembedding": 1.0, "draw": 0.5}
    parts = measure_parts(
        transformer, kv_cache, HostSampler(), DecodeCase(1, 20), lambda work: seconds[work.__name__]
    )
    assert [part.seconds for part in parts] == [2.0, 3.0, 1.0, 0.5]
    bytes_in_a_second = Ceilings(parts[0].cost.num_bytes, 1e30)
    assert parts[0].row(bytes_in_a_second)["percent_of_roofline"] == 50.0


def test_greedy_draws_are_the_most_likely_tokens():
    logits = torch.randn(5, 99)
    drawn = HostSampler().draw(logits, greedy_draws(5, CPU))
    assert torch.equal(drawn, logits.argmax(-1))


def test_contexts_can_be_read_rather_than_filled_in(transformer):
    executor = on_stream(RecordedStream())
    config = small_config(kv_cache_bytes=1 << 22, prefix_cache=False)
    engine = Engine(transformer, config, make_executor=executor)
    under_test = EngineUnderTest(engine, MODEL, fills_contexts=False)
    assert len(list(under_test.steps(DecodeCase(3, 70), 4))) == 4
    assert engine.transformer is transformer
    assert engine.stats().placement == 0
    assert engine.stats().num_running == 0
    assert under_test.prefill(100) > 0
