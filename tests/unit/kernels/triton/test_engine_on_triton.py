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
from tests.support.engine_runs import run, small_config
from tests.support.recorded_stream import RecordedStream, on_stream

MODEL = tiny_config(num_layers=2, vocab_size=64)
CPU = torch.device("cpu")
REQUESTS = [
    GenerationRequest("greedy", (5, 6, 7), SamplingParams(temperature=0.0, max_tokens=3)),
    GenerationRequest("drawn", (9, 2, 9, 4, 1), SamplingParams(seed=3, max_tokens=2)),
    GenerationRequest("held", (8,), SamplingParams(seed=4, frequency_penalty=1.0, max_tokens=2)),
]


@pytest.fixture(scope="module")
def transformer():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(transformer_module, "make_kernels", lambda *_, **__: TritonKernels("cpu"))
        return Transformer.load(DeviceCheckpoint(MODEL, CPU, seed=2), EngineConfig(kernels="torch"))


def answers(transformer, requests, *, records_graphs, **config):
    executor = on_stream(RecordedStream(), records_graphs=records_graphs)
    config = small_config(speculation="off", max_context=64, **config)
    engine = Engine(transformer, config, make_executor=executor)
    engine.executor.kv_cache.all_keys.fill_(torch.nan)
    engine.executor.kv_cache.all_values.fill_(torch.nan)
    found = {request_id: answer.text() for request_id, answer in run(engine, requests).items()}
    engine.close()
    return found


def test_replayed_in_a_batch_they_answer_as_launched_alone(transformer):
    """Blocks hold no numbers before they are written, so what nobody may read would show."""
    alone = {}
    for request in REQUESTS:
        alone |= answers(transformer, [request], records_graphs=False)
    assert answers(transformer, REQUESTS, records_graphs=True, max_num_batched_tokens=8) == alone
    assert [len(tokens) for tokens, *_ in alone.values()] == [3, 2, 2]
