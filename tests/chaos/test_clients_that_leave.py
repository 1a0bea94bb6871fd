"""Clients that stall or leave cost the others nothing, and what they held is free again."""

from __future__ import annotations

import asyncio
import contextlib
import time

import pytest

from tests.chaos.conftest import NUM_STREAMS, QUESTIONS
from tests.support.served_app import ServedApp
from tests.support.server_health import ServerHealth, check_health
from tests.support.streamed_answers import Question, client, print_seconds, stream_all

NUM_DEPARTURES = 5
NUM_FLOODS_TO_FILL = 3
"""Allocators keep what the highest water needs, and which ingress a flood fills more is chance."""

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(600)]


async def test_clients_that_leave_in_the_middle_free_their_blocks_and_disturb_nobody(
    served_pair, undisturbed
):
    before = ServerHealth.read(served_pair)

    async def leave(http, question: Question, num_lines: int) -> None:
        async with http.stream("POST", question.path, json=question.body) as response:
            lines = response.aiter_lines()
            for _ in range(num_lines):
                await anext(lines)

    async with client(served_pair) as http:
        num_migrations = await migrations(http)
        leaving = [leave(http, question, 1 + question.number % 9) for question in QUESTIONS]
        _, answers = await asyncio.gather(asyncio.gather(*leaving), stream_all(http, QUESTIONS))
        assert await migrations(http) == num_migrations, "nobody's stream broke because another left"
    assert [answer.said for answer in answers] == [answer.said for answer in undisturbed]
    check_health(served_pair, before)


async def test_blocks_of_clients_that_leave_are_soon_free(served_pair):
    before = ServerHealth.read(served_pair)
    seconds = []

    async def stay(http, question: Question, has_begun: asyncio.Semaphore) -> None:
        body = question.body | {"max_tokens": 1500}
        async with http.stream("POST", question.path, json=body) as response:
            async for _ in response.aiter_lines():
                has_begun.release()

    for _ in range(NUM_DEPARTURES):
        has_begun = asyncio.Semaphore(0)
        async with client(served_pair) as http:
            staying = [asyncio.create_task(stay(http, question, has_begun)) for question in QUESTIONS]
            for _ in range(20 * NUM_STREAMS):
                await has_begun.acquire()
            assert await asyncio.to_thread(blocks_in_use, served_pair) > 0
            left_at = time.monotonic()
            for task in staying:
                task.cancel()
            await asyncio.wait(staying)
        while await asyncio.to_thread(blocks_in_use, served_pair) > 0:
            assert time.monotonic() < left_at + 60
        seconds.append(time.monotonic() - left_at)
    print_seconds(f"{NUM_STREAMS} clients left, until their blocks are free", seconds)
    check_health(served_pair, before)


async def migrations(http) -> int:
    (model,) = (await http.get("/dashboard/state")).json()["models"]
    return model["migrations"]


def blocks_in_use(served: ServedApp) -> float:
    return sum(rank["engine"]["kv_cache_usage"] for rank in served.ask("stats"))


async def test_clients_that_stop_reading_disturb_nobody(served_pair, undisturbed):
    before = ServerHealth.read(served_pair)
    async with client(served_pair) as http, contextlib.AsyncExitStack() as stalled:
        for question in QUESTIONS[:20]:
            await stalled.enter_async_context(http.stream("POST", question.path, json=question.body))
        answers = await stream_all(http, QUESTIONS)
        assert [answer.said for answer in answers] == [answer.said for answer in undisturbed]
    check_health(served_pair, before)


async def test_a_flood_of_requests_is_answered_or_refused_and_leaves_nothing(served_pair, undisturbed):
    flood = QUESTIONS * 8

    async def pour() -> None:
        async with client(served_pair, num_connections=len(flood)) as http:
            answers = await stream_all(http, flood)
        for question, answer in zip(flood, answers, strict=True):
            assert answer.said == undisturbed[question.number].said or answer.problem.startswith("HTTP 429")
        assert sum(not answer.problem for answer in answers) >= NUM_STREAMS

    for _ in range(NUM_FLOODS_TO_FILL):
        await pour()
    before = ServerHealth.read(served_pair)
    for _ in range(2):
        await pour()
    check_health(served_pair, before)
