import asyncio
from contextlib import aclosing

import pytest

from gptoss_ray.errors import UnavailableError
from gptoss_ray.serving.answer import merge


class Streams:
    """Makes streams and knows which of them are closed."""

    def __init__(self):
        self.closed = []

    async def of(self, name, items, *, pause_s=0.0, error=None):
        try:
            for item in items:
                await asyncio.sleep(pause_s)
                yield item
            if error is not None:
                raise error
        finally:
            self.closed.append(name)


async def test_merged_streams_keep_their_own_order_and_lose_nothing():
    streams = Streams()
    merged = [
        item
        async for item in merge(
            [streams.of("a", range(0, 50)), streams.of("b", range(100, 150), pause_s=0.0005)]
        )
    ]
    assert [item for item in merged if item < 100] == list(range(0, 50))
    assert [item for item in merged if item >= 100] == list(range(100, 150))


async def test_a_slow_stream_does_not_hold_up_a_fast_one():
    streams = Streams()
    async with aclosing(merge([streams.of("slow", [1], pause_s=60), streams.of("fast", [2, 3])])) as merged:
        assert [await anext(merged), await anext(merged)] == [2, 3]


async def test_one_stream_that_fails_closes_all():
    streams = Streams()
    failing = streams.of("a", [1], error=UnavailableError("lost"))
    with pytest.raises(UnavailableError):
        async for _ in merge([failing, streams.of("b", [2], pause_s=60)]):
            pass
    assert sorted(streams.closed) == ["a", "b"]


async def test_a_reader_that_leaves_closes_all():
    streams = Streams()
    async with aclosing(merge([streams.of("a", range(9)), streams.of("b", [2], pause_s=60)])) as merged:
        await anext(merged)
    assert sorted(streams.closed) == ["a", "b"]


async def test_a_cancelled_reader_closes_all():
    streams = Streams()

    async def read():
        async with aclosing(
            merge([streams.of("a", [1], pause_s=60), streams.of("b", [2], pause_s=60)])
        ) as merged:
            await anext(merged)

    reading = asyncio.create_task(read())
    await asyncio.sleep(0.01)
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    assert sorted(streams.closed) == ["a", "b"]
