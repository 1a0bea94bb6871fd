from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from gptoss_ray.config import ParallelConfig, ServedModelConfig
from gptoss_ray.engine.engine_stats import EngineStats
from gptoss_ray.errors import CheckpointError, GroupBrokenError, InvalidRequestError, UnavailableError
from gptoss_ray.generation import FinishReason, GenerationRequest, SamplingParams, TokenOutput
from gptoss_ray.parallel.group_link import GroupLink
from gptoss_ray.parallel.membership import GroupMembership
from gptoss_ray.parallel.step_sync import LocalStepSync
from gptoss_ray.ranks.engine_rank import EngineRank, LoadEngine
from tests.support.counting_engine import CountingEngine

CONFIG = ServedModelConfig(name="counting", checkpoint="none")
GROUP_CONFIG = CONFIG.model_copy(update={"parallel": ParallelConfig(num_ranks=2)})


@pytest.fixture
def engine() -> CountingEngine:
    return CountingEngine(step_s=0.001)


@pytest_asyncio.fixture
async def rank(engine: CountingEngine) -> AsyncIterator[EngineRank]:
    rank = EngineRank(CONFIG, load=loading(engine))
    await rank.load()
    await rank.start()
    yield rank
    rank.stop()


def loading(engine: CountingEngine) -> LoadEngine:
    return lambda config, rank, link, suppressed_token_ids, progress: engine


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


async def test_expert_load_is_taken_once_and_told_whole(rank, engine, monkeypatch):
    total = [((1, 2), (0, 3)), ((5, 2), (1, 6))]
    monkeypatch.setattr(engine, "stats", lambda: EngineStats(*[0] * 10, expert_load=total[0]))
    assert await rank.take_expert_load() == [[1, 2], [0, 3]]
    total.pop(0)
    assert await rank.take_expert_load() == [[4, 0], [1, 3]]
    assert await rank.take_expert_load() == [[0, 0], [0, 0]]
    assert (await rank.stats()).engine.expert_load == ((5, 2), (1, 6))


async def test_it_is_ready_once_a_step_has_completed(engine):
    rank = EngineRank(CONFIG, load=loading(engine))
    assert not await rank.ready()
    assert isinstance(await rank.submit(request("early")), UnavailableError)
    await rank.load()
    assert not await rank.ready()
    assert isinstance(await rank.submit(request("early")), UnavailableError)
    await rank.start()
    assert await rank.ready()
    rank.stop()


async def test_an_engine_that_fails_its_first_step_never_becomes_ready(engine):
    engine.faults = [RuntimeError("broken"), RuntimeError("broken")]
    rank = EngineRank(CONFIG, load=loading(engine))
    await rank.load()
    with pytest.raises(UnavailableError):
        await rank.start()
    assert not await rank.ready()
    rank.stop()


async def test_a_newcomer_whose_epoch_breaks_in_its_first_request_is_ready_in_the_next(engine, monkeypatch):
    membership = GroupMembership("gptoss-x", 1, ("host", "host"), "127.0.0.1", 1234)
    monkeypatch.setattr(GroupLink, "join", lambda self, membership: None)
    monkeypatch.setattr(GroupLink, "leave", lambda self: None)
    engine.faults = [GroupBrokenError("another rank takes part")]
    config = GROUP_CONFIG.model_copy(update={"parallel": ParallelConfig(num_ranks=2, healing="in_place")})
    rank = EngineRank(config, 0, loading(engine))
    await rank.load()
    started = asyncio.create_task(rank.start(membership))
    while rank._loop is None or not rank._loop.num_failed_steps:
        await asyncio.sleep(0.01)
    await asyncio.wrap_future(rank._loop.change_epoch(lambda: None))
    await started
    assert await rank.ready()
    rank.stop()


async def test_a_checkpoint_error_reaches_the_caller_of_load():
    def load(config, rank, link, suppressed_token_ids, progress):
        raise CheckpointError("model.safetensors: tensor x is missing")

    with pytest.raises(CheckpointError, match="tensor x"):
        await EngineRank(CONFIG, load=load).load()


async def test_it_loads_the_part_of_its_rank_and_tells_how_far_it_is(engine):
    told = {}

    def load(config, rank, link, suppressed_token_ids, progress):
        told["rank"], told["suppressed"], told["link"] = rank, suppressed_token_ids, link
        progress(0.25)
        told["progress"] = actor._progress
        return engine

    actor = EngineRank(GROUP_CONFIG, 1, load)
    assert (await actor.progress()).stage == "importing"
    await actor.load([7, 8])
    assert told["rank"] == 1
    assert told["link"].rank == 1
    assert told["link"].world_size == 2
    assert told["suppressed"] == [7, 8]
    assert str(told["progress"]) == "loading 25%"
    assert (await actor.progress()).stage == "loaded"


async def test_a_rank_of_a_group_steps_only_after_it_has_joined_and_leaves_when_it_stops(engine, monkeypatch):
    happened = []
    membership = GroupMembership("gptoss-x", 1, ("host", "host"), "127.0.0.1", 1234)
    monkeypatch.setattr(GroupLink, "join", lambda self, membership: happened.append(membership))
    monkeypatch.setattr(GroupLink, "leave", lambda self: happened.append("left"))
    run = engine.run
    monkeypatch.setattr(engine, "run", lambda agreement: happened.append("step") or run(agreement))
    rank = EngineRank(GROUP_CONFIG, 0, loading(engine))
    await rank.load()
    await rank.start(membership)
    assert await rank.ready()
    assert happened[:2] == [membership, "step"]
    rank.stop()
    assert happened[-1] == "left"


async def test_a_group_that_does_not_form_is_an_error_of_start(engine, monkeypatch):
    def join(self, membership):
        raise GroupBrokenError("rank 1 did not come")

    monkeypatch.setattr(GroupLink, "join", join)
    rank = EngineRank(GROUP_CONFIG, 0, loading(engine))
    await rank.load()
    with pytest.raises(GroupBrokenError, match="rank 1 did not come"):
        await rank.start(GroupMembership("gptoss-x", 1, ("host", "host"), "127.0.0.1", 1234))
    assert not await rank.ready()


async def test_a_wake_before_the_start_is_ignored_and_one_later_ends_the_wait(engine):
    meetings = asyncio.Queue()
    event_loop = asyncio.get_running_loop()

    class SlowHeart(LocalStepSync):
        heartbeat_s = 3600.0

        def agree(self, demand):
            event_loop.call_soon_threadsafe(meetings.put_nowait, demand)
            return super().agree(demand)

    engine.step_sync = SlowHeart()
    rank = EngineRank(CONFIG, load=loading(engine))
    await rank.wake()
    await rank.load()
    await rank.start()
    while True:
        demand = await asyncio.wait_for(meetings.get(), 5)
        if not demand.has_work and meetings.empty():
            break
    await asyncio.sleep(0.1)
    while not meetings.empty():
        meetings.get_nowait()
    await rank.wake()
    await asyncio.wait_for(meetings.get(), 5)
    rank.stop()


async def test_requests_of_a_broken_group_can_be_sent_again_and_the_rank_is_no_longer_ready(rank, engine):
    engine.step_s = 0.02
    await rank.submit(request("x", 1_000_000))
    engine.faults = [GroupBrokenError("rank 1 is gone")]
    last = (await read(rank, "x"))[-1]
    assert last.finish_reason is FinishReason.ERROR
    assert isinstance(last.error, UnavailableError)
    await asyncio.wait_for(rank.wait_ended("x"), 5)
    assert not await rank.ready()
    assert isinstance(await rank.submit(request("y")), UnavailableError)
    assert (await rank.stats()).num_live_requests == 0


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


def held_request(request_id: str, grammar: str, max_tokens: int = 3) -> GenerationRequest:
    params = SamplingParams(max_tokens=max_tokens, grammar=grammar)
    return GenerationRequest(request_id, (1,), params, sink_id="a")


async def test_a_grammar_that_cannot_be_enforced_is_refused_and_its_id_is_free_again(rank, engine):
    refusal = await rank.submit(held_request("r", "wrong"))
    assert isinstance(refusal, InvalidRequestError)
    assert refusal.param == "grammar"
    engine.may_prepare.set()
    assert await rank.submit(held_request("r", "slow")) is None
    assert [output.token_ids for output in await read(rank, "r")] == [(0,), (1,), (2,)]


async def test_steps_go_on_while_a_grammar_is_compiled(rank, engine):
    preparing = asyncio.create_task(rank.submit(held_request("held", "slow")))
    assert await rank.submit(request("free", max_tokens=20)) is None
    assert len(await read(rank, "free")) == 20
    assert await rank.submit(held_request("held", "slow")) is not None, "the id is taken"
    engine.may_prepare.set()
    assert await preparing is None
    assert len(await read(rank, "held")) == 3


async def test_an_abort_that_comes_while_a_grammar_is_compiled_ends_the_request(rank, engine):
    submission = asyncio.create_task(rank.submit(held_request("r", "slow", max_tokens=10_000)))
    await asyncio.sleep(0.01)
    submission.cancel()
    abort = asyncio.create_task(rank.abort("r"))
    await asyncio.sleep(0.01)
    engine.may_prepare.set()
    await abort
    await asyncio.wait_for(rank.wait_ended("r"), 5)
    assert engine.requests == {}
