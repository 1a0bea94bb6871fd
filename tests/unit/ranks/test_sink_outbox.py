from __future__ import annotations

import asyncio
from collections.abc import Iterable

import pytest

from gptoss_ray.generation import FinishReason, TokenOutput
from gptoss_ray.ranks import sink_outbox
from gptoss_ray.ranks.sink_outbox import SinkOutbox


class Aborted:
    def __init__(self) -> None:
        self.request_ids: list[str] = []

    def __call__(self, request_ids: Iterable[str]) -> None:
        self.request_ids += sorted(request_ids)


@pytest.fixture
def aborted() -> Aborted:
    return Aborted()


@pytest.fixture
def outbox(aborted: Aborted) -> SinkOutbox:
    return SinkOutbox(aborted)


def output(request_id: str, position: int, finish_reason: FinishReason | None = None) -> TokenOutput:
    return TokenOutput(request_id, position, (position,), finish_reason=finish_reason)


async def test_outputs_wait_for_a_sink_that_subscribes_late(outbox):
    outbox.open_request("a", "x")
    outbox.deliver({"a": [output("x", 0)]})
    stream = outbox.stream("a")
    assert await anext(stream) == [output("x", 0)]
    outbox.deliver({"a": [output("x", 1)]})
    assert await anext(stream) == [output("x", 1)]
    await stream.aclose()


async def test_a_reader_that_lags_gets_several_steps_in_one_message(outbox):
    outbox.open_request("a", "x")
    stream = outbox.stream("a")
    for position in range(5):
        outbox.deliver({"a": [output("x", position)]})
    assert [item.position for item in await anext(stream)] == [0, 1, 2, 3, 4]
    await stream.aclose()


async def test_the_end_of_a_stream_aborts_the_live_requests_of_its_sink_only(outbox, aborted):
    for sink_id, request_id in [("a", "x"), ("a", "y"), ("a", "done"), ("b", "z")]:
        outbox.open_request(sink_id, request_id)
    stream = outbox.stream("a")
    outbox.deliver({"a": [output("done", 0, FinishReason.STOP)]})
    await anext(stream)
    await stream.aclose()
    assert aborted.request_ids == ["x", "y"]


async def test_a_sink_that_reads_nothing_is_dropped_at_the_bound(outbox, aborted, monkeypatch):
    monkeypatch.setattr(sink_outbox, "MAX_BUFFERED_OUTPUTS", 10)
    outbox.open_request("a", "x")
    stream = outbox.stream("a")
    outbox.deliver({"a": [output("x", 0)]})
    await anext(stream)
    for position in range(1, 12):
        outbox.deliver({"a": [output("x", position)]})
    assert aborted.request_ids == ["x"]
    with pytest.raises(StopAsyncIteration):
        await anext(stream)


async def test_a_sink_that_never_subscribes_is_dropped_in_time(outbox, aborted, monkeypatch):
    monkeypatch.setattr(sink_outbox, "SUBSCRIBE_TIMEOUT_S", 0.02)
    outbox.open_request("a", "x")
    await asyncio.sleep(0.1)
    assert aborted.request_ids == ["x"]


async def test_a_newer_stream_of_a_sink_takes_over_without_losing_outputs(outbox, aborted):
    outbox.open_request("a", "x")
    old = outbox.stream("a")
    outbox.deliver({"a": [output("x", 0)]})
    await anext(old)
    waiting = asyncio.ensure_future(anext(old))
    await asyncio.sleep(0)
    new = outbox.stream("a")
    first = asyncio.ensure_future(anext(new))
    await asyncio.sleep(0)
    outbox.deliver({"a": [output("x", 1)]})
    assert await first == [output("x", 1)]
    with pytest.raises(StopAsyncIteration):
        await waiting
    assert aborted.request_ids == []
    await new.aclose()
