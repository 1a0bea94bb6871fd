"""A reader who falls behind: the sequence pauses, and goes on from what was read."""

from __future__ import annotations

import asyncio
import warnings
from dataclasses import replace
from types import SimpleNamespace

import pytest

from gptoss_ray.config import LimitsConfig, ServedModelConfig
from gptoss_ray.engine.scripted_sequence import ScriptedSequence
from gptoss_ray.errors import UnavailableError
from gptoss_ray.generation import FinishReason, GenerationRequest, SamplingParams, TokenOutput
from tests.support.traces import TRACEPARENT, MemoryTracer

with warnings.catch_warnings():
    # Importing Serve warns of how Serve uses pydantic.
    warnings.simplefilter("ignore")
    from gptoss_ray.serving import token_stream
    from gptoss_ray.serving.journal import JournaledTokenSource
    from gptoss_ray.serving.token_stream import RoutedTokenSource, TokenStreams

MAX_UNREAD = 4
TOKENS = list(range(100, 150))


class Rank:
    """Draws all tokens of each request at once, as fast as nobody can read."""

    def __init__(self, streams):
        self.requests = []
        self.aborted = []
        self._streams = streams

    def take(self, request):
        self.requests.append(request)
        sequence = ScriptedSequence(request)
        route = self._streams._routes[request.request_id]
        for token_id in TOKENS[len(request.emitted_token_ids) :]:
            if route.put(sequence.take((token_id,))):
                self.aborted.append(request.request_id)


class Call:
    """A routed call that stays open."""

    def __init__(self, request):
        self.request = request

    async def __anext__(self):
        await asyncio.Event().wait()


@pytest.fixture
def streams():
    return TokenStreams(MAX_UNREAD)


@pytest.fixture
def source(streams, monkeypatch):
    routed = RoutedTokenSource(
        SimpleNamespace(deployment_name="m"), streams, ServedModelConfig(name="m", checkpoint="demo")
    )
    source = JournaledTokenSource(routed, LimitsConfig())
    source.rank = Rank(streams)
    monkeypatch.setattr(routed, "_call", Call)
    monkeypatch.setattr(streams, "follow", lambda route, rank_name: None)
    monkeypatch.setattr(streams, "abort", lambda request_id, rank: source.rank.aborted.append(request_id))

    async def rank_name(request, call, waiting):
        source.rank.take(call.request)
        return "rank"

    monkeypatch.setattr(routed, "_rank_name", rank_name)
    return source


def request(**params):
    return GenerationRequest("r", (1,), SamplingParams(max_tokens=len(TOKENS), **params))


async def test_a_traced_request_has_a_span_until_a_rank_has_it(streams, source):
    tracer = MemoryTracer()
    source._source._tracer = tracer
    async for _ in source.generate(replace(request(), traceparent=TRACEPARENT)):
        pass
    spans = tracer.exporter.get_finished_spans() if tracer.flush() is None else ()
    assert {span.name for span in spans} == {"queue"}
    assert spans[0].attributes["gptoss.rank_name"] == "rank"
    tracer.close()


async def test_what_is_read_is_whole_and_little_of_it_ever_waits(source, streams):
    outputs, longest = [], 0
    async for output in source.generate(request(logprobs=1)):
        outputs.append(output)
        longest = max(longest, *(route.queue.qsize() for route in streams._routes.values()), 0)
    assert [id_ for output in outputs for id_ in output.token_ids] == TOKENS
    assert [output.position for output in outputs] == list(range(len(TOKENS)))
    assert all(len(output.logprobs) == 1 for output in outputs)
    assert outputs[-1].finish_reason is FinishReason.LENGTH
    assert longest <= MAX_UNREAD + 1


async def test_a_paused_request_is_sent_again_under_a_new_id_behind_what_was_read(source):
    outputs = source.generate(request())
    for _ in range(MAX_UNREAD + 1):
        await anext(outputs)
    first, second = source.rank.requests
    assert (first.request_id, first.emitted_token_ids) == ("r", ())
    assert (second.request_id, second.emitted_token_ids) == ("r~1", tuple(TOKENS[:MAX_UNREAD]))
    assert source.rank.aborted == ["r", "r~1"]
    await outputs.aclose()


async def test_the_end_and_a_loss_always_fit(streams):
    route = streams.open_route("r")
    for position in range(MAX_UNREAD):
        assert not route.put(TokenOutput("r", position, (5,)))
    assert not route.put(TokenOutput("r", MAX_UNREAD, (5,), finish_reason=FinishReason.STOP))
    assert not route.put(UnavailableError("lost"))
    assert route.queue.qsize() == MAX_UNREAD + 2
    assert not route.is_paused


async def test_a_paused_request_hears_nothing_more_of_its_old_sequence(streams):
    route = streams.open_route("r")
    paused = [route.put(TokenOutput("r", position, (5,))) for position in range(MAX_UNREAD + 3)]
    assert paused == [False] * MAX_UNREAD + [True, False, False]
    assert not route.put(TokenOutput("r", 99, finish_reason=FinishReason.ABORT))
    assert route.queue.qsize() == MAX_UNREAD + 1


async def test_leaving_while_a_sequence_is_paused_aborts_nothing_twice(source):
    outputs = source.generate(request())
    await anext(outputs)
    await outputs.aclose()
    await asyncio.sleep(0)
    assert set(source.rank.aborted) == {"r"}


async def test_tokens_that_one_step_has_made_are_told_one_by_one_and_counted_so(streams, monkeypatch):
    """Whatever reads them, stop strings and usage among it, ends at the same token as without drafts."""
    made = [TokenOutput("r", 0, (5, 6, 7)), TokenOutput("r", 3, (8, 9), finish_reason=FinishReason.STOP)]

    async def messages():
        for output in made:
            future = asyncio.get_running_loop().create_future()
            future.set_result([output])
            yield future

    async def find_rank(rank_name):
        return SimpleNamespace(
            token_stream=SimpleNamespace(options=lambda **_: stream),
            abort=SimpleNamespace(remote=lambda request_id: None),
        )

    stream = SimpleNamespace(remote=lambda sink_id: messages())
    monkeypatch.setattr(token_stream, "_find_rank", find_rank)
    route = streams.open_route("r")
    streams._pumps["rank"] = None
    await streams._pump("rank")
    told = [route.queue.get_nowait() for _ in range(MAX_UNREAD)]
    assert [output.token_ids for output in told] == [(5,), (6,), (7,), (8,)]
    assert [output.position for output in told] == [0, 1, 2, 3]
    end = route.queue.get_nowait()
    assert (end.token_ids, end.finish_reason) == ((9,), FinishReason.STOP)
