from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from gptoss_ray.serving.stream_cancellation import writing_handler


class Call:
    """Yields responses as Serve does: only a cancellation while it waits reaches the replica."""

    def __init__(self) -> None:
        self.replica_was_told = False
        self.source: asyncio.Queue[bytes] = asyncio.Queue()

    async def handle(self, request: Any, context: Any) -> AsyncGenerator[bytes, None]:
        while True:
            try:
                response = await self.source.get()
            except asyncio.CancelledError:
                self.replica_was_told = True
                return
            yield response


class Context:
    """A client that reads its first response and then no more."""

    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.is_writing = asyncio.Event()

    async def write(self, response: bytes) -> None:
        self.written.append(response)
        if len(self.written) > 1:
            self.is_writing.set()
            await asyncio.sleep(3600)


async def test_a_stream_cancelled_while_it_writes_still_tells_the_replica():
    call, context = Call(), Context()
    for response in (b"0", b"1"):
        call.source.put_nowait(response)
    task = asyncio.ensure_future(writing_handler(call.handle)(None, context))
    await context.is_writing.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert call.replica_was_told


async def test_a_stream_cancelled_while_it_waits_tells_the_replica():
    call, context = Call(), Context()
    call.source.put_nowait(b"0")
    task = asyncio.ensure_future(writing_handler(call.handle)(None, context))
    while not context.written:
        await asyncio.sleep(0)
    await asyncio.sleep(0.01)
    task.cancel()
    await asyncio.wait([task])
    assert call.replica_was_told


async def test_a_stream_that_ends_is_written_whole():
    async def handle(request: Any, context: Any) -> AsyncGenerator[bytes, None]:
        yield b"only"

    context = Context()
    await writing_handler(handle)(None, context)
    assert context.written == [b"only"]
