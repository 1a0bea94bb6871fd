from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from gptoss_ray.errors import InternalError, InvalidRequestError
from gptoss_ray.generation import FinishReason, GenerationRequest, SamplingParams
from gptoss_ray.ranks import step_loop
from gptoss_ray.ranks.step_loop import StepLoop
from tests.support.counting_engine import CountingEngine
from tests.support.output_recorder import OutputRecorder


def request(request_id: str, max_tokens: int = 3, sink_id: str = "a", **fields: object) -> GenerationRequest:
    params = SamplingParams(max_tokens=max_tokens)
    return GenerationRequest(request_id, (1,), params, sink_id=sink_id, **fields)  # type: ignore[arg-type]


@pytest.fixture
def engine() -> CountingEngine:
    return CountingEngine(step_s=0.001)


@pytest.fixture
def delivered() -> OutputRecorder:
    return OutputRecorder()


@pytest.fixture
def loop(engine: CountingEngine, delivered: OutputRecorder) -> Iterator[StepLoop]:
    loop = StepLoop(engine, delivered)
    loop.start()
    yield loop
    loop.stop()


def test_outputs_of_a_step_leave_as_one_list_per_sink(loop, engine, delivered):
    engine.step_s = 0.05
    blocker = loop.submit(request("blocker", 2, "a"))
    blocker.result(5)
    for id_, sink in [("x", "a"), ("y", "a"), ("z", "b")]:
        loop.submit(request(id_, 2, sink))
    for id_ in "xyz":
        delivered.wait_ended(id_)
    together = [batches for batches in delivered.messages if "b" in batches]
    sizes = [(len(batches["a"]), len(batches["b"])) for batches in together]
    assert sizes in ([(3, 1), (2, 1)], [(2, 1), (2, 1)])


def test_a_refused_request_raises_to_its_sender_and_leaves_the_others_alone(loop, delivered):
    good = loop.submit(request("good"))
    bad = loop.submit(GenerationRequest("bad", (666,), sink_id="a"))
    with pytest.raises(InvalidRequestError, match="666"):
        bad.result(5)
    good.result(5)
    assert delivered.wait_ended("good").finish_reason is FinishReason.LENGTH


def test_a_caller_that_stops_waiting_stops_neither_the_call_nor_the_loop(loop, engine, delivered):
    engine.step_s = 0.1
    loop.submit(request("blocker", 3)).result(5)
    forgotten = loop.submit(request("forgotten", 1))
    refused = loop.submit(GenerationRequest("refused", (666,), sink_id="a"))
    assert forgotten.cancel()
    assert refused.cancel()
    assert delivered.wait_ended("forgotten").finish_reason is FinishReason.LENGTH
    assert delivered.wait_ended("blocker").finish_reason is FinishReason.LENGTH


def test_an_aborted_request_ends_behind_its_last_position(loop, engine, delivered):
    loop.submit(request("long", 1_000_000)).result(5)
    while len(delivered.outputs("long")) < 3:
        time.sleep(0.001)
    loop.abort(["long", "unknown"]).result(5)
    *tokens, last = delivered.outputs("long")
    assert last.finish_reason is FinishReason.ABORT
    assert last.position == len(tokens)
    assert not engine.requests


def test_a_loop_that_ends_closes_its_engine(loop, engine):
    loop.submit(request("x", 1)).result(5)
    assert not engine.is_closed
    loop.stop()
    assert engine.is_closed


def test_an_idle_loop_does_not_spin(loop, engine, delivered):
    loop.submit(request("x", 1)).result(5)
    delivered.wait_ended("x")
    time.sleep(0.05)
    before = engine.num_agree_calls
    time.sleep(0.2)
    assert engine.num_agree_calls - before <= 2


def test_a_step_that_fails_once_is_tried_again_and_nobody_notices(loop, engine, delivered):
    engine.faults = [RuntimeError("flaky")]
    loop.submit(request("x", 3)).result(5)
    assert delivered.wait_ended("x").finish_reason is FinishReason.LENGTH
    assert [output.position for output in delivered.outputs("x")] == [0, 1, 2]
    assert loop.num_failed_steps == 1


def test_a_step_that_fails_twice_fails_its_requests_and_the_loop_goes_on(loop, engine, delivered):
    engine.faults = [RuntimeError("secret"), RuntimeError("secret")]
    loop.submit(request("x", 3, emitted_token_ids=(7, 7))).result(5)
    last = delivered.wait_ended("x")
    assert last.finish_reason is FinishReason.ERROR
    assert isinstance(last.error, InternalError)
    assert "secret" not in str(last.error)
    assert last.position == 2
    loop.submit(request("y")).result(5)
    assert delivered.wait_ended("y").finish_reason is FinishReason.LENGTH


def test_it_is_responsive_only_after_a_step_and_while_none_is_overdue(loop, engine, delivered, monkeypatch):
    assert not loop.is_responsive()
    loop.submit(request("x", 1)).result(5)
    delivered.wait_ended("x")
    assert loop.is_responsive()
    monkeypatch.setattr(step_loop, "MIN_STEP_DEADLINE_S", 0.05)
    engine.step_s = 0.5
    loop.submit(request("y", 1)).result(5)
    time.sleep(0.2)
    assert not loop.is_responsive()
    delivered.wait_ended("y")
    assert loop.is_responsive()
