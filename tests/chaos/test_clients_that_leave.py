"""Clients that stall or leave cost the others nothing, and what they held is free again."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from tests.chaos.conftest import NUM_STREAMS, QUESTIONS
from tests.support.server_health import ServerHealth, check_health
from tests.support.streamed_answers import Question, client, stream_all

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
        leaving = [leave(http, question, 1 + question.number % 9) for question in QUESTIONS]
        _, answers = await asyncio.gather(asyncio.gather(*leaving), stream_all(http, QUESTIONS))
    assert [answer.said for answer in answers] == [answer.said for answer in undisturbed]
    check_health(served_pair, before)


async def test_clients_that_stop_reading_disturb_nobody(served_pair, undisturbed):
    before = ServerHealth.read(served_pair)
    async with client(served_pair) as http, contextlib.AsyncExitStack() as stalled:
        for question in QUESTIONS[:20]:
            await stalled.enter_async_context(http.stream("POST", question.path, json=question.body))
        answers = await stream_all(http, QUESTIONS)
        assert [answer.said for answer in answers] == [answer.said for answer in undisturbed]
    check_health(served_pair, before)


async def test_a_flood_of_requests_is_answered_or_refused_and_leaves_nothing(served_pair, undisturbed):
    before = ServerHealth.read(served_pair)
    flood = QUESTIONS * 8
    async with client(served_pair, num_connections=len(flood)) as http:
        answers = await stream_all(http, flood)
    for question, answer in zip(flood, answers, strict=True):
        assert answer.said == undisturbed[question.number].said or answer.problem.startswith("HTTP 429")
    assert sum(not answer.problem for answer in answers) >= NUM_STREAMS
    check_health(served_pair, before)
