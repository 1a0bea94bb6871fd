"""Requests that are lost while they are worked on go on elsewhere, and nobody who reads them can tell."""

from __future__ import annotations

from contextlib import aclosing

import pytest

from gptoss_ray.config import LimitsConfig
from gptoss_ray.engine.engine import Engine
from gptoss_ray.errors import (
    InternalError,
    InvalidRequestError,
    OverloadedError,
    RequestLostError,
    UnavailableError,
)
from gptoss_ray.generation import FinishReason, GenerationRequest, SamplingParams, TokenOutput
from gptoss_ray.serving.journal import Journal, JournaledTokenSource
from gptoss_ray.serving.token_source import RequestMovesError
from tests.support.engine_runs import small_config
from tests.support.engine_source import EngineSource
from tests.support.fake_transformer import FakeTransformer
from tests.support.scripted_source import Endless, ScriptedSource
from tests.support.unreliable_source import UnreliableSource

NUM_TOKENS = 12
REQUESTS = {
    "greedy": SamplingParams(temperature=0.0, max_tokens=NUM_TOKENS, logprobs=2),
    "drawn": SamplingParams(temperature=1.0, seed=7, max_tokens=NUM_TOKENS, logprobs=0),
    "penalised": SamplingParams(temperature=0.5, seed=3, frequency_penalty=1.5, max_tokens=NUM_TOKENS),
    "scored": SamplingParams(temperature=0.0, max_tokens=NUM_TOKENS, logprobs=1, prompt_logprobs=1),
}


def engine_source():
    return EngineSource(Engine(FakeTransformer(), small_config()))


def request(params, emitted=()):
    return GenerationRequest("r", tuple(range(2, 40)), params, tuple(emitted))


async def answer(source, sent):
    """Return what a reader sees: tokens, log probabilities, the end; positions follow each other."""
    token_ids, logprobs, prompt_logprobs, reason = [], [], [], None
    async with aclosing(source.generate(sent)) as outputs:
        async for output in outputs:
            assert output.request_id == sent.request_id
            assert output.position == len(sent.emitted_token_ids) + len(token_ids)
            token_ids += output.token_ids
            logprobs += output.logprobs
            prompt_logprobs += output.prompt_logprobs
            reason = output.finish_reason
    return token_ids, logprobs, prompt_logprobs, reason


def journaled(source, *, clock=None, **limits):
    note = []
    options = {"clock": clock} if clock else {}
    return JournaledTokenSource(source, LimitsConfig(**limits), lambda: note.append(1), **options), note


@pytest.mark.parametrize("name", REQUESTS)
@pytest.mark.parametrize("lost_at", [[k] for k in range(NUM_TOKENS)] + [[0, 0], [2, 3], [1, 5, 11]])
async def test_a_request_that_is_lost_anywhere_gives_the_answer_of_one_that_was_not(name, lost_at):
    whole = await answer(engine_source(), request(REQUESTS[name]))
    assert len(whole[0]) == NUM_TOKENS
    source, migrations = journaled(UnreliableSource(engine_source(), lost_at))
    assert await answer(source, request(REQUESTS[name])) == whole
    assert len(migrations) == len(lost_at)


async def test_a_request_that_came_with_tokens_goes_on_behind_those_and_its_own():
    params = REQUESTS["drawn"]
    whole = (await answer(engine_source(), request(params)))[0]
    source, _ = journaled(UnreliableSource(engine_source(), [6]))
    assert (await answer(source, request(params, emitted=whole[:4])))[0] == whole[4:]


async def test_every_migration_has_an_id_of_its_own_so_that_a_lost_rank_speaks_to_nobody():
    unreliable = UnreliableSource(engine_source(), [1, 2])
    await answer(journaled(unreliable)[0], request(REQUESTS["greedy"]))
    assert [attempt.request_id for attempt in unreliable.attempts] == ["r", "r~1", "r~2"]
    assert [len(attempt.emitted_token_ids) for attempt in unreliable.attempts] == [0, 1, 2]


async def test_a_request_that_is_lost_too_often_fails_alone():
    source, migrations = journaled(UnreliableSource(engine_source(), [1, 2, 3]), max_migrations=2)
    with pytest.raises(RequestLostError, match=r"3 time\(s\)"):
        await answer(source, request(REQUESTS["greedy"]))
    assert len(migrations) == 2


async def test_a_request_is_never_sent_again_where_no_migration_is_allowed():
    source, migrations = journaled(UnreliableSource(engine_source(), [1]), max_migrations=0)
    with pytest.raises(RequestLostError):
        await answer(source, request(REQUESTS["greedy"]))
    assert not migrations


@pytest.mark.parametrize("refusal", [UnavailableError("broken."), OverloadedError("full.")])
async def test_a_lost_request_waits_until_some_rank_takes_it(refusal):
    whole = await answer(engine_source(), request(REQUESTS["greedy"]))
    source, migrations = journaled(UnreliableSource(engine_source(), [4], [refusal, refusal]))
    assert await answer(source, request(REQUESTS["greedy"])) == whole
    assert len(migrations) == 1


@pytest.mark.parametrize("refusal", [UnavailableError("loading."), OverloadedError("full.")])
async def test_a_request_that_no_rank_ever_took_is_refused_at_once(refusal):
    refusing = ScriptedSource([refusal])
    with pytest.raises(type(refusal)):
        await answer(journaled(refusing)[0], request(REQUESTS["greedy"]))
    assert len(refusing.requests) == 1


async def test_a_lost_request_gives_up_when_its_time_to_recover_is_over():
    now = iter(range(0, 1000, 40))
    unreliable = UnreliableSource(engine_source(), [4], [UnavailableError("down.")] * 50)
    source, _ = journaled(unreliable, clock=lambda: next(now), recovery_timeout_s=100)
    with pytest.raises(UnavailableError, match="down"):
        await answer(source, request(REQUESTS["greedy"]))
    assert 2 <= len(unreliable.attempts) <= 5


@pytest.mark.parametrize("error", [InternalError("at fault."), InvalidRequestError("wrong.", param="seed")])
async def test_what_failed_for_another_reason_is_not_sent_again(error):
    failing = ScriptedSource([(5,), error])
    with pytest.raises(type(error)):
        await answer(journaled(failing)[0], request(REQUESTS["greedy"]))
    assert len(failing.requests) == 1


async def test_a_stream_that_just_ends_was_lost():
    class Ending(ScriptedSource):
        async def generate(self, request):
            self.requests.append(request)
            yield TokenOutput(request.request_id, len(request.emitted_token_ids), (9,))
            if len(self.requests) == 2:
                yield TokenOutput(request.request_id, 2, (8,), finish_reason=FinishReason.STOP)

    ending = Ending([])
    token_ids, *_, reason = await answer(journaled(ending)[0], request(REQUESTS["greedy"]))
    assert (token_ids, reason) == ([9, 9, 8], FinishReason.STOP)


async def test_a_loss_that_comes_as_an_output_is_no_part_of_the_answer():
    lost = TokenOutput("r", 1, finish_reason=FinishReason.ERROR, error=RequestLostError("a rank died."))

    class Losing(ScriptedSource):
        async def generate(self, request):
            if request.emitted_token_ids:
                yield TokenOutput(request.request_id, 1, (8,), finish_reason=FinishReason.STOP)
                return
            yield TokenOutput(request.request_id, 0, (9,))
            yield lost

    assert (await answer(journaled(Losing([]))[0], request(REQUESTS["greedy"])))[0] == [9, 8]


@pytest.mark.parametrize("position", [0, 2])
def test_a_token_that_comes_twice_or_leaves_a_gap_is_never_passed_on(position):
    journal = Journal(request(REQUESTS["greedy"]))
    journal.take(TokenOutput("r", 0, (4,)))
    with pytest.raises(InternalError, match="Token 1 of the answer"):
        journal.take(TokenOutput("r", position, (5,)))


async def test_a_reader_who_leaves_closes_the_attempt_under_way():
    endless = ScriptedSource([(5,), Endless(6)])
    async with aclosing(journaled(endless)[0].generate(request(SamplingParams(max_tokens=500)))) as outputs:
        await anext(outputs)
    await endless.wait_until_closed()


async def test_readiness_and_counters_are_those_of_the_source():
    source = journaled(ScriptedSource([], is_ready=False))[0]
    assert not await source.ready()
    assert list(await source.stats()) == []


class MovingSource(ScriptedSource):
    """Has each request wait at a full replica first, as often as it is told."""

    num_moves = 2

    async def generate(self, request):
        self.attempts = [*getattr(self, "attempts", []), request.request_id]
        if len(self.attempts) <= self.num_moves:
            raise RequestMovesError
        async for output in super().generate(request):
            yield output


async def test_a_request_that_moves_is_sent_again_under_a_new_id_and_is_not_counted_as_lost():
    source = MovingSource([(5,)] * NUM_TOKENS)
    guarded, losses = journaled(source, max_migrations=0)
    token_ids, _, _, reason = await answer(guarded, request(SamplingParams(max_tokens=NUM_TOKENS)))
    assert len(token_ids) == NUM_TOKENS
    assert reason is FinishReason.LENGTH
    assert source.attempts == ["r", "r~1", "r~2"]
    assert losses == []
