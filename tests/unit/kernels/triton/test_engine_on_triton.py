"""The kernels through the engine: steps that run ahead, padded, on a stream, in Triton's interpreter."""

from __future__ import annotations

import pytest
import torch

from gptoss_ray.bench.device_checkpoint import DeviceCheckpoint
from gptoss_ray.checkpoint.synthetic import tiny_config
from gptoss_ray.config import EngineConfig
from gptoss_ray.engine.engine import Engine
from gptoss_ray.generation import GenerationRequest, SamplingParams
from gptoss_ray.kernels.triton.triton_kernels import TritonKernels
from gptoss_ray.model import transformer as transformer_module
from gptoss_ray.model.transformer import Transformer
from gptoss_ray.planner.memory import plan_memory
from gptoss_ray.planner.weights import WeightFormat
from tests.support.engine_runs import run, small_config
from tests.support.recorded_stream import RecordedStream, on_stream

MODEL = tiny_config(num_layers=2, vocab_size=64)
CPU = torch.device("cpu")
REQUESTS = [
    GenerationRequest("greedy", (5, 6, 7), SamplingParams(temperature=0.0, max_tokens=3)),
    GenerationRequest("drawn", (9, 2, 9, 4, 1), SamplingParams(seed=3, max_tokens=2)),
    GenerationRequest("held", (8,), SamplingParams(seed=4, frequency_penalty=1.0, max_tokens=2)),
]


def load(dense_weights="bfloat16"):
    kernels = TritonKernels("cpu", dense_weights=dense_weights)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(transformer_module, "make_kernels", lambda *_, **__: kernels)
        return Transformer.load(DeviceCheckpoint(MODEL, CPU, seed=2), EngineConfig(kernels="torch"))


@pytest.fixture(scope="module")
def transformer():
    return load()


def engine_config(**changes):
    return small_config(speculation="off", max_context=64, **changes)


def make_engine(transformer, *, records_graphs, **config):
    """Blocks hold no numbers before they are written, so what nobody may read would show."""
    executor = on_stream(RecordedStream(), records_graphs=records_graphs)
    engine = Engine(transformer, engine_config(**config), make_executor=executor)
    engine.executor.kv_cache.all_keys.fill_(torch.nan)
    engine.executor.kv_cache.all_values.fill_(torch.nan)
    return engine


def texts(answers):
    return {request_id: answer.text() for request_id, answer in answers.items()}


def answers(transformer, requests, **config):
    engine = make_engine(transformer, **config)
    found = texts(run(engine, requests))
    engine.close()
    return found


@pytest.mark.parametrize(
    ("dense_weights", "kv_cache_dtype"), [("bfloat16", "auto"), ("bfloat16", "fp8"), ("int8", "auto")]
)
def test_replayed_in_a_batch_they_answer_as_launched_alone(dense_weights, kv_cache_dtype):
    transformer = load(dense_weights)
    config = {"kv_cache_dtype": kv_cache_dtype}
    alone = {}
    for request in REQUESTS:
        alone |= answers(transformer, [request], records_graphs=False, **config)
    batched = answers(transformer, REQUESTS, records_graphs=True, max_num_batched_tokens=8, **config)
    assert batched == alone
    assert [len(tokens) for tokens, *_ in alone.values()] == [3, 2, 2]


def test_a_prefix_found_in_an_8_bit_cache_answers_as_one_that_is_read(transformer):
    request = GenerationRequest("long", tuple(range(20)), SamplingParams(temperature=0.0, max_tokens=2))
    engine = make_engine(transformer, records_graphs=False, kv_cache_dtype="fp8")
    cold, warm = run(engine, [request]), run(engine, [request])
    engine.close()
    assert (cold["long"].num_cached_tokens, warm["long"].num_cached_tokens) == (0, 16)
    assert texts(warm) == texts(cold)


def test_an_8_bit_cache_holds_the_planned_blocks_twice_as_many(transformer):
    num_blocks = []
    for kv_cache_dtype in ("auto", "fp8"):
        config = engine_config(kv_cache_dtype=kv_cache_dtype)
        plan = plan_memory(MODEL, config, weight_format=WeightFormat.of_triton(config))
        engine = make_engine(transformer, records_graphs=False, kv_cache_dtype=kv_cache_dtype)
        num_blocks.append(engine.stats().num_kv_blocks)
        engine.close()
        assert num_blocks[-1] == plan.num_kv_blocks
    assert num_blocks[1] == 2 * num_blocks[0]
