"""Clients that stall or leave cost the others nothing, and what they held is free again."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from tests.chaos.conftest import NUM_STREAMS
from tests.support.server_health import ServerHealth, check_health
from tests.support.streamed_chats import body, client, stream_chats

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(600)]


async def test_clients_that_leave_in_the_middle_free_their_blocks_and_disturb_nobody(
    served_pair, undisturbed
):
    before = ServerHealth.read(served_pair)

    async def leave(http, number: int, num_lines: int) -> None:
        async with http.stream("POST", "/v1/chat/completions", json=body(number)) as response:
            lines = response.aiter_lines()
            for _ in range(num_lines):
                await anext(lines)

    async with client(served_pair) as http:
        leaving = [leave(http, number, 1 + number % 9) for number in range(NUM_STREAMS)]
        _, chats = await asyncio.gather(asyncio.gather(*leaving), stream_chats(http, range(NUM_STREAMS)))
    assert [chat.said for chat in chats] == [chat.said for chat in undisturbed]
    check_health(served_pair, before)


async def test_clients_that_stop_reading_disturb_nobody(served_pair, undisturbed):
    before = ServerHealth.read(served_pair)
    async with client(served_pair) as http, contextlib.AsyncExitStack() as stalled:
        for number in range(20):
            stream = http.stream("POST", "/v1/chat/completions", json=body(number))
            await stalled.enter_async_context(stream)
        chats = await stream_chats(http, range(NUM_STREAMS))
        assert [chat.said for chat in chats] == [chat.said for chat in undisturbed]
    check_health(served_pair, before)


async def test_a_flood_of_requests_is_answered_or_refused_and_leaves_nothing(served_pair, undisturbed):
    before = ServerHealth.read(served_pair)
    numbers = [number % NUM_STREAMS for number in range(8 * NUM_STREAMS)]
    async with client(served_pair, num_connections=len(numbers)) as http:
        chats = await stream_chats(http, numbers)
    for number, chat in zip(numbers, chats, strict=True):
        assert chat.said == undisturbed[number].said or chat.problem.startswith("HTTP 429")
    assert sum(not chat.problem for chat in chats) >= NUM_STREAMS
    check_health(served_pair, before)
