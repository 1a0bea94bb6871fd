"""Law 3: no Ray call stands inside a step. Counted in the threads that step, in a real group of two ranks."""

from __future__ import annotations

import sys
import threading
import time
from collections import Counter
from types import FrameType
from typing import Any

import pytest
import ray

from gptoss_ray.checkpoint.synthetic import tiny_config, write_checkpoint
from gptoss_ray.config import EngineConfig, ParallelConfig, ServedModelConfig
from gptoss_ray.generation import GenerationRequest, SamplingParams
from gptoss_ray.ranks.engine_loader import load_engine
from gptoss_ray.ranks.step_loop import StepLoop
from tests.support.output_recorder import OutputRecorder
from tests.support.thread_collectives import ThreadLink, thread_group

NUM_TOKENS = 12


class RayCalls:
    """Counts calls into Ray made by the threads that step; a profile function of `threading`."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()

    def __call__(self, frame: FrameType, event: str, argument: Any) -> None:
        if event == "call" and threading.current_thread().name == "step-loop":
            module = frame.f_globals.get("__name__", "")
            if module == "ray" or module.startswith("ray."):
                self.counts[f"{module}.{frame.f_code.co_name}"] += 1


@pytest.fixture
def ray_calls():
    calls = RayCalls()
    threading.setprofile(calls)  # type: ignore[arg-type]
    yield calls
    threading.setprofile(None)


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> ServedModelConfig:
    folder = tmp_path_factory.mktemp("tiny")
    write_checkpoint(folder, tiny_config())
    return ServedModelConfig(
        name="tiny",
        checkpoint=str(folder),
        engine=EngineConfig(kv_cache_bytes=1 << 20, max_context=256, speculation="off"),
        parallel=ParallelConfig(num_ranks=2, heartbeat_s=0.01),
    )


def serve(config: ServedModelConfig, *, in_a_step: Any = None) -> int:
    """Run a request on each of two ranks to its end; returns the steps done."""
    engines = [
        load_engine(config, rank, ThreadLink(side), (), lambda _: None)  # type: ignore[arg-type]
        for rank, side in enumerate(thread_group(2))
    ]
    if in_a_step is not None:
        run = engines[0].run
        engines[0].run = lambda agreement: (in_a_step(), run(agreement))[1]  # type: ignore[method-assign]
    recorders = [OutputRecorder() for _ in engines]
    loops = [StepLoop(engine, recorder) for engine, recorder in zip(engines, recorders, strict=True)]
    for loop in loops:
        loop.start()
    params = SamplingParams(max_tokens=NUM_TOKENS)
    for number, loop in enumerate(loops):
        loop.submit(GenerationRequest(f"r{number}", (1, 2, 3), params, sink_id="a")).result()
    deadline = time.monotonic() + 60
    while min(loop.num_steps for loop in loops) < NUM_TOKENS:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    for loop in loops:
        loop.stop(0)
    for loop in loops:
        loop.stop()
    return min(loop.num_steps for loop in loops)


def test_the_threads_that_step_never_call_ray(config, ray_calls):
    assert "ray" in sys.modules
    assert serve(config) >= NUM_TOKENS
    assert ray_calls.counts == Counter()


def test_the_counter_sees_a_call_of_ray_in_a_step(config, ray_calls):
    num_steps = serve(config, in_a_step=ray.is_initialized)
    assert sum(ray_calls.counts.values()) >= num_steps
