"""The kernels in a group whose members replay whole steps: counts of rows that no host has read."""

from __future__ import annotations

import threading

import pytest
import torch
from triton.runtime.interpreter import GridExecutor

from gptoss_ray.bench.device_checkpoint import DeviceCheckpoint
from gptoss_ray.checkpoint.synthetic import tiny_config
from gptoss_ray.config import EngineConfig, ParallelConfig
from gptoss_ray.engine.engine import Engine
from gptoss_ray.generation import GenerationRequest, SamplingParams
from gptoss_ray.kernels.triton.triton_kernels import TritonKernels
from gptoss_ray.model import transformer as transformer_module
from gptoss_ray.model.transformer import Transformer
from gptoss_ray.parallel.all_to_all import TokenExchange
from gptoss_ray.parallel.expert_placement import contiguous
from gptoss_ray.parallel.step_sync import GroupStepSync
from gptoss_ray.ranks.rank_experts import make_dispatcher
from tests.support.engine_runs import Answer, run, small_config, take
from tests.support.recorded_stream import RecordedStream, ThreadedStream, on_stream
from tests.support.thread_collectives import ThreadLink, run_ranks

MODEL = tiny_config(num_layers=2, vocab_size=64)
CPU = torch.device("cpu")
CHECKPOINT = DeviceCheckpoint(MODEL, CPU, seed=2)
CONFIG = small_config(speculation="off", max_context=64, max_num_batched_tokens=16, max_num_sequences=2)
PARALLEL = ParallelConfig(num_ranks=2, dispatch="padded", collective_timeout_s=240)
REQUESTS = [
    GenerationRequest("greedy", (5, 6, 7), SamplingParams(temperature=0.0, max_tokens=4)),
    GenerationRequest("drawn", (9, 2, 9, 4, 1), SamplingParams(seed=3, max_tokens=2)),
]


@pytest.fixture(autouse=True)
def triton_on_a_cpu(monkeypatch):
    """Ranks are threads, and the interpreter can be in one program at a time."""
    lock, launch = threading.Lock(), GridExecutor.__call__

    def launch_alone(self, *args, **kwargs):
        with lock:
            return launch(self, *args, **kwargs)

    monkeypatch.setattr(GridExecutor, "__call__", launch_alone)
    monkeypatch.setattr(transformer_module, "make_kernels", lambda *_, **__: TritonKernels("cpu"))


def load(**parts):
    return Transformer.load(CHECKPOINT, EngineConfig(kernels="torch"), **parts)


def be_rank(collectives):
    """Answer a request of one's own beside another rank; return the answer and the graphs replayed."""
    rank, link = collectives.rank, ThreadLink(collectives, is_streamed=True)
    exchange = TokenExchange(
        link,
        PARALLEL,
        num_experts=MODEL.num_experts,
        experts_per_token=MODEL.num_experts_per_token,
        hidden_size=MODEL.hidden_size,
        dtype=torch.bfloat16,
        device=CPU,
        largest_step=CONFIG.max_num_batched_tokens,
    )
    placement = contiguous(MODEL.num_experts, 2)
    dispatchers = [make_dispatcher(exchange, placement, ("", "")) for _ in range(MODEL.num_layers)]
    stream = ThreadedStream()
    engine = Engine(
        load(expert_ids=[placement.local_slots(rank)] * MODEL.num_layers, dispatchers=dispatchers),
        CONFIG,
        step_sync=GroupStepSync(link, PARALLEL),
        leave_group=link.leave,
        make_executor=on_stream(stream),
    )
    engine.submit(REQUESTS[rank])
    answers: dict[str, Answer] = {}
    runs = True
    while runs:  # until the other has answered, too
        agreement = engine.agree()
        take(answers, engine.run(agreement))
        runs = agreement.runs
    return {name: answer.text() for name, answer in answers.items()}, stream.num["graph"]


# Rows that pad a step go on with whatever lay where their results would be: numpy minds, a card does not.
@pytest.mark.filterwarnings("ignore:(overflow|invalid value) encountered:RuntimeWarning")
def test_two_ranks_that_replay_graphs_answer_as_one():
    alone = {}
    for request in REQUESTS:
        answers = run(Engine(load(), CONFIG, make_executor=on_stream(RecordedStream())), [request])
        alone |= {name: answer.text() for name, answer in answers.items()}
    (first, first_replays), (second, second_replays) = run_ranks(2, be_rank)
    assert first | second == alone
    assert first_replays > 0 and second_replays > 0
