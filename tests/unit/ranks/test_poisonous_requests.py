from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from gptoss_ray.engine.engine import Engine
from gptoss_ray.errors import InternalError
from gptoss_ray.generation import FinishReason, GenerationRequest, SamplingParams
from gptoss_ray.ranks.step_loop import StepLoop
from tests.support.engine_invariants import check_engine
from tests.support.engine_runs import run, small_config
from tests.support.fake_transformer import FakeConfig, FakeTransformer
from tests.support.output_recorder import OutputRecorder

POISON = FakeConfig().vocab_size - 1


def make_engine(transformer: FakeTransformer | None = None) -> Engine:
    return Engine(transformer or FakeTransformer(), small_config(), suppressed_token_ids=(POISON,))


def harmless(count: int) -> list[GenerationRequest]:
    rng = random.Random(0)
    return [
        GenerationRequest(
            f"r{number}",
            tuple(rng.randrange(POISON) for _ in range(rng.randint(1, 90))),
            SamplingParams(temperature=number % 2, seed=number, max_tokens=rng.randint(5, 40), logprobs=1),
            sink_id="a",
        )
        for number in range(count)
    ]


def poisonous(position: int, num_prompt_tokens: int = 100) -> GenerationRequest:
    prompt = [1] * num_prompt_tokens
    prompt[position] = POISON
    return GenerationRequest("poison", tuple(prompt), SamplingParams(max_tokens=5), sink_id="a")


@pytest.fixture
def transformer() -> FakeTransformer:
    return FakeTransformer()


@pytest.fixture
def engine(transformer: FakeTransformer) -> Engine:
    return make_engine(transformer)


@pytest.fixture
def delivered() -> OutputRecorder:
    return OutputRecorder()


@pytest.fixture
def loop(engine: Engine, delivered: OutputRecorder) -> Iterator[StepLoop]:
    loop = StepLoop(engine, delivered)
    loop.start()
    yield loop
    loop.stop()


@pytest.mark.parametrize("position", [0, 70, 99])
def test_a_request_on_which_every_step_fails_fails_alone(transformer, engine, loop, delivered, position):
    transformer.poison = POISON
    requests = harmless(8)
    for request in [*requests[:4], poisonous(position), *requests[4:]]:
        loop.submit(request).result(5)
    last = delivered.wait_ended("poison")
    assert last.finish_reason is FinishReason.ERROR
    assert isinstance(last.error, InternalError)
    expected = run(make_engine(), requests)
    for request in requests:
        delivered.wait_ended(request.request_id)
        outputs = delivered.outputs(request.request_id)
        answer = expected[request.request_id]
        assert sum((output.token_ids for output in outputs), ()) == answer.token_ids
        assert sum((output.logprobs for output in outputs), ()) == answer.logprobs
    assert engine.stats().kv_cache_usage == 0
    check_engine(engine)


def test_two_of_them_fail_both_and_their_neighbour_is_answered(transformer, loop, delivered):
    transformer.poison = POISON
    (request,) = harmless(1)
    second = GenerationRequest("second", (POISON,), SamplingParams(max_tokens=5), sink_id="a")
    for each in (poisonous(3), request, second):
        loop.submit(each).result(5)
    for id_ in ("poison", "second"):
        assert delivered.wait_ended(id_).finish_reason is FinishReason.ERROR
    assert delivered.wait_ended(request.request_id).finish_reason is FinishReason.LENGTH


def test_where_every_step_fails_every_request_does(transformer, loop, delivered):
    transformer.failing = set(range(1, 1000))
    requests = harmless(4)
    for request in requests:
        loop.submit(request).result(5)
    for request in requests:
        assert delivered.wait_ended(request.request_id).finish_reason is FinishReason.ERROR


def test_a_suspect_that_is_aborted_or_preempted_holds_nobody_up(transformer, engine):
    requests = harmless(3)
    for request in requests:
        engine.submit(request)
    transformer.failing = {1, 2}
    for _ in range(2):
        with pytest.raises(RuntimeError):
            engine.step()
        assert engine.blame() == ()
    assert engine.abort("r0")
    answers = run(engine, [])
    assert set(answers) == {"r1", "r2"}
