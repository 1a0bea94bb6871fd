"""Streams of ranks that are found, are gone, or are looked for while Ray's control store is away."""

from __future__ import annotations

import asyncio
import threading
import warnings
from contextvars import ContextVar
from types import SimpleNamespace

import pytest

from gptoss_ray.errors import RequestLostError
from gptoss_ray.generation import FinishReason, TokenOutput

with warnings.catch_warnings():
    # Importing Serve warns of how Serve uses pydantic.
    warnings.simplefilter("ignore")
    from gptoss_ray.serving import token_stream
    from gptoss_ray.serving.token_stream import TokenStreams

request_of_task = ContextVar("request_of_task", default="nobody")
LAST = TokenOutput("r", 0, (5,), finish_reason=FinishReason.STOP)


class Rank:
    """An actor handle whose stream has one message."""

    def __init__(self):
        self.aborted = []
        self.asked_by = None
        self.token_stream = SimpleNamespace(options=lambda **_: SimpleNamespace(remote=self.stream))
        self.abort = SimpleNamespace(remote=self.aborted.append)

    async def stream(self, sink_id):
        self.asked_by = request_of_task.get()
        message = asyncio.get_running_loop().create_future()
        message.set_result([LAST])
        yield message


@pytest.fixture
def ranks(monkeypatch):
    """Those that the control store knows; it answers once it `is_there`."""
    found = SimpleNamespace(by_name={}, is_there=threading.Event())

    def get_actor(name, namespace):
        assert found.is_there.wait(10)
        if name not in found.by_name:
            raise ValueError(name)
        return found.by_name[name]

    monkeypatch.setattr(token_stream.ray, "get_actor", get_actor)
    yield found
    found.is_there.set()


async def test_a_control_store_that_is_away_holds_up_only_who_asks_it(ranks):
    ranks.by_name["rank"] = Rank()
    streams = TokenStreams(4)
    route = streams.open_route("r")
    streams.follow(route, "rank")
    await asyncio.sleep(0.01)  # the event loop goes on
    assert route.queue.empty()
    ranks.is_there.set()
    assert await asyncio.wait_for(route.queue.get(), 10) == LAST


async def test_a_request_of_a_rank_that_is_gone_is_lost(ranks):
    ranks.is_there.set()
    streams = TokenStreams(4)
    route = streams.open_route("r")
    streams.follow(route, "rank")
    assert isinstance(await asyncio.wait_for(route.queue.get(), 10), RequestLostError)


async def test_a_request_is_ended_at_a_rank_that_was_never_followed(ranks):
    ranks.is_there.set()
    rank = ranks.by_name["rank"] = Rank()
    streams = TokenStreams(4)
    streams.abort("r", "rank")
    streams.abort("s", "gone")
    await asyncio.gather(*streams._aborts)
    assert rank.aborted == ["r"]


async def test_a_stream_does_not_belong_to_the_request_that_was_its_first(ranks):
    ranks.is_there.set()
    rank = ranks.by_name["rank"] = Rank()
    streams = TokenStreams(4)
    route = streams.open_route("r")
    request_of_task.set("r, which Serve may cancel")
    streams.follow(route, "rank")
    await asyncio.wait_for(route.queue.get(), 10)
    assert rank.asked_by == "nobody"
