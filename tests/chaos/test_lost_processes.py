"""Processes are killed under 50 streams, and every stream says what it says when nothing happens."""

from __future__ import annotations

import asyncio
import time
from random import Random

import pytest

from tests.chaos.conftest import NUM_STREAMS, QUESTIONS
from tests.support.served_app import ServedApp
from tests.support.server_health import ServerHealth, check_health
from tests.support.streamed_answers import NUM_LONG_TOKENS, client, print_pauses, stream_all, stream_one

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(900)]

SEEDS = (1, 2, 3)
REPLACED_WITHIN_S = 180.0


TOTAL = NUM_STREAMS * NUM_LONG_TOKENS
"""Tokens of all streams together; faults happen at some of them."""


def seeded_point(seed: int) -> int:
    """A number of tokens, over all streams, in the middle of the answers."""
    return Random(seed).randrange(TOTAL // 20, TOTAL // 2)


async def check_disturbed(served, undisturbed, faults, title) -> None:
    """Stream all chats through the faults: no answer is another one, and the server is well after."""
    before = ServerHealth.read(served)
    async with client(served) as http:
        answers = await stream_all(http, QUESTIONS, faults)
        assert [answer.said for answer in answers] == [answer.said for answer in undisturbed]
        print_pauses(title, answers)
        check_health(served, before, within_s=REPLACED_WITHIN_S)
        assert (await stream_one(http, QUESTIONS[1])).said == undisturbed[1].said


def kill_rank(served: ServedApp, number: int):
    """Kill a rank that serves now, once there is one."""

    def kill() -> None:
        deadline = time.monotonic() + REPLACED_WITHIN_S
        while len(ranks := served.processes("EngineRank")) != 2:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        sorted(ranks, key=lambda process: process.pid)[number].kill()

    return kill


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("number", [0, 1])
async def test_a_killed_rank_is_a_pause(served_pair, undisturbed, number, seed):
    point = seeded_point(seed)
    fault = (point, kill_rank(served_pair, number))
    await check_disturbed(served_pair, undisturbed, [fault], f"rank {number} killed at token {point}")


async def test_two_ranks_killed_one_after_the_other_are_two_pauses(served_pair, undisturbed):
    first, second = TOTAL // 4, TOTAL // 2
    faults = [(first, kill_rank(served_pair, 0)), (second, kill_rank(served_pair, 1))]
    await check_disturbed(served_pair, undisturbed, faults, "both ranks killed, one after the other")


async def test_a_rank_killed_while_the_loss_of_another_is_recovered_from_is_a_longer_pause(
    served_pair, undisturbed
):
    def kill_twice() -> None:
        kill_rank(served_pair, 0)()
        first_ranks = {process.pid for process in served_pair.processes("EngineRank")}
        deadline = time.monotonic() + REPLACED_WITHIN_S
        while True:
            new = [p for p in served_pair.processes("EngineRank") if p.pid not in first_ranks]
            if new:
                new[0].kill()
                return
            assert time.monotonic() < deadline
            time.sleep(0.02)

    point = TOTAL // 3
    await check_disturbed(served_pair, undisturbed, [(point, kill_twice)], "rank killed, then one that loads")


async def test_a_killed_replica_is_a_pause(served_pair, undisturbed):
    def kill() -> None:
        (replica,) = served_pair.processes("ServeReplica:gptoss:EngineReplica")
        replica.kill()

    point = TOTAL // 3
    await check_disturbed(served_pair, undisturbed, [(point, kill)], "replica killed")


async def test_streams_of_a_killed_ingress_end_with_an_error_and_what_comes_then_is_served(
    served_pair, undisturbed
):
    before = ServerHealth.read(served_pair)

    def kill() -> None:
        for ingress in served_pair.processes("ServeReplica:gptoss:Ingress"):
            ingress.kill()

    async with client(served_pair) as http:
        answers = await stream_all(http, QUESTIONS, [(TOTAL // 3, kill)])
        assert any(answer.problem for answer in answers), "some stream was under way"
        for answer, whole in zip(answers, undisturbed, strict=True):
            assert answer.said == whole.said if not answer.problem else whole.text.startswith(answer.text)
        deadline = time.monotonic() + REPLACED_WITHIN_S
        while (again := await stream_one(http, QUESTIONS[1])).problem:
            assert time.monotonic() < deadline, again.problem
            await asyncio.sleep(0.1)
        assert again.said == undisturbed[1].said
    check_health(served_pair, before, within_s=REPLACED_WITHIN_S)
