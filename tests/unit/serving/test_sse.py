import asyncio

import pytest

from gptoss_ray.errors import RequestAbortedError
from gptoss_ray.serving.sse import cancel_on_disconnect, data_event


async def never():
    await asyncio.Event().wait()


async def test_work_that_ends_before_the_client_leaves_gives_its_result():
    async def work():
        return 5

    assert await cancel_on_disconnect(never, work()) == 5


async def test_work_is_cancelled_as_soon_as_the_client_leaves():
    cancelled = asyncio.Event()

    async def work():
        try:
            await never()
        finally:
            cancelled.set()

    async def receive():
        return {"type": "http.disconnect"}

    with pytest.raises(RequestAbortedError):
        await cancel_on_disconnect(receive, work())
    assert cancelled.is_set()


async def test_cancelling_the_caller_cancels_the_work():
    cancelled = asyncio.Event()

    async def work():
        try:
            await never()
        finally:
            cancelled.set()

    calling = asyncio.create_task(cancel_on_disconnect(never, work()))
    await asyncio.sleep(0.01)
    calling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await calling
    assert cancelled.is_set()


def test_an_event_is_one_line_that_ends_in_two_line_feeds():
    assert data_event(b'{"a":"b"}')["body"] == b'data: {"a":"b"}\n\n'
