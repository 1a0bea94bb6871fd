from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from gptoss_ray.config import ServedModelConfig
from gptoss_ray.errors import CheckpointError, InvalidRequestError, UnavailableError
from gptoss_ray.generation import FinishReason, GenerationRequest, SamplingParams, TokenOutput
from gptoss_ray.ranks.engine_rank import EngineRank
from tests.support.counting_engine import CountingEngine

CONFIG = ServedModelConfig(name="counting", checkpoint="none")


@pytest.fixture
def engine() -> CountingEngine:
    return CountingEngine(step_s=0.001)


@pytest_asyncio.fixture
async def rank(engine: CountingEngine) -> AsyncIterator[EngineRank]:
    rank = EngineRank(CONFIG, load=lambda config, suppressed_token_ids, progress: engine)
    await rank.load()
    yield rank
    rank.stop()


def request(request_id: str, max_tokens: int = 3, prompt: tuple[int, ...] = (1,)) -> GenerationRequest:
    return GenerationRequest(request_id, prompt, SamplingParams(max_tokens=max_tokens), sink_id="a")


async def read(rank: EngineRank, request_id: str) -> list[TokenOutput]:
    outputs: list[TokenOutput] = []
    stream = rank.token_stream("a")
    async for message in stream:
        outputs += [output for output in message if output.request_id == request_id]
        if outputs and outputs[-1].finish_reason is not None:
            break
    await stream.aclose()
    return outputs


async def test_it_is_ready_once_a_step_has_completed(engine):
    rank = EngineRank(CONFIG, load=lambda config, suppressed_token_ids, progress: engine)
    assert not await rank.ready()
    assert isinstance(await rank.submit(request("early")), UnavailableError)
    await rank.load()
    assert await rank.ready()
    rank.stop()


async def test_an_engine_that_fails_its_first_step_never_becomes_ready(engine):
    engine.faults = [RuntimeError("broken"), RuntimeError("broken")]
    rank = EngineRank(CONFIG, load=lambda config, suppressed_token_ids, progress: engine)
    with pytest.raises(UnavailableError):
        await rank.load()
    assert not await rank.ready()
    rank.stop()


async def test_a_checkpoint_error_reaches_the_caller_of_load():
    def load(config, suppressed_token_ids, progress):
        raise CheckpointError("model.safetensors: tensor x is missing")

    with pytest.raises(CheckpointError, match="tensor x"):
        await EngineRank(CONFIG, load=load).load()


async def test_a_request_streams_to_its_sink_and_then_has_ended(rank):
    assert await rank.submit(request("x")) is None
    outputs = await read(rank, "x")
    await rank.wait_ended("x")
    assert [id_ for output in outputs for id_ in output.token_ids] == [0, 1, 2]
    assert (await rank.stats()).num_live_requests == 0


async def test_a_refusal_is_returned_and_leaves_nothing(rank):
    assert isinstance(await rank.submit(request("bad", prompt=(666,))), InvalidRequestError)
    assert (await rank.stats()).num_live_requests == 0


async def test_a_second_request_with_a_live_id_is_refused_and_the_first_goes_on(rank, engine):
    engine.step_s = 0.05
    await rank.submit(request("x"))
    assert isinstance(await rank.submit(request("x")), InvalidRequestError)
    assert (await read(rank, "x"))[-1].finish_reason is FinishReason.LENGTH


async def test_a_submission_cancelled_half_way_can_be_aborted(rank, engine):
    engine.step_s = 0.1
    await rank.submit(request("blocker", 100))
    submission = asyncio.create_task(rank.submit(request("x", 1000)))
    await asyncio.sleep(0.01)
    submission.cancel()
    await rank.abort("x")
    await asyncio.wait_for(rank.wait_ended("x"), 5)
    assert set(engine.requests) == {"blocker"}


async def test_the_end_of_a_stream_aborts_its_requests(rank, engine):
    await rank.submit(request("x", 1_000_000))
    stream = rank.token_stream("a")
    await anext(stream)
    await stream.aclose()
    await asyncio.wait_for(rank.wait_ended("x"), 5)
    assert not engine.requests
