"""Processes are killed under 50 streams, and every stream says what it says when nothing happens."""

from __future__ import annotations

import asyncio
import time
from random import Random

import pytest

from tests.chaos.conftest import NUM_STREAMS, QUESTIONS
from tests.support.resumed_streams import patient_client, stream
from tests.support.served_app import ServedApp, serve_app, write_config
from tests.support.server_health import ServerHealth, check_health
from tests.support.streamed_answers import (
    NUM_LONG_TOKENS,
    client,
    print_pauses,
    print_seconds,
    stream_all,
    stream_one,
)

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


async def test_a_killed_replica_is_a_pause_until_its_successor_has_loaded(served_pair, undisturbed):
    def kill() -> None:
        (replica,) = served_pair.processes("ServeReplica:gptoss:EngineReplica")
        replica.kill()

    point = TOTAL // 3
    await check_disturbed(served_pair, undisturbed, [(point, kill)], "replica killed, the only one")


async def test_streams_of_a_killed_replica_go_on_in_another(tmp_path, undisturbed):
    config = write_config(tmp_path / "serve.yaml", "demo", num_replicas=2)
    with serve_app(config) as served:

        def kill() -> None:
            served.processes("ServeReplica:gptoss:EngineReplica")[0].kill()

        before = ServerHealth.read(served)
        async with client(served) as http:
            answers = await stream_all(http, QUESTIONS, [(TOTAL // 3, kill)])
            assert [answer.said for answer in answers] == [answer.said for answer in undisturbed]
        print_pauses("replica killed, another is there", answers)
        check_health(served, before, within_s=REPLACED_WITHIN_S)


async def newcomers(http, seconds: float) -> list[float]:
    """Send small requests at a steady rate, all of which must be answered; return how long each took."""

    async def one(after_s: float) -> float:
        await asyncio.sleep(after_s)
        sent_at = time.monotonic()
        body = {"model": "tiny", "prompt": f"{after_s} s later", "max_tokens": 1}
        answer = await http.post("/v1/completions", json=body)
        assert answer.status_code == 200, answer.text
        return time.monotonic() - sent_at

    return await asyncio.gather(*(one(index / 10) for index in range(int(seconds * 10))))


async def test_streams_of_a_killed_ingress_end_with_an_error_and_its_peer_serves_all_others(
    served_pair, undisturbed
):
    before = ServerHealth.read(served_pair)
    was_killed = asyncio.Event()
    loop = asyncio.get_running_loop()

    def kill() -> None:
        served_pair.processes("ServeReplica:gptoss:Ingress")[0].kill()
        loop.call_soon_threadsafe(was_killed.set)

    async def come_later(http) -> list[float]:
        await was_killed.wait()
        return await newcomers(http, 4)

    async with client(served_pair) as http:
        print_seconds("new requests, nothing happens", await newcomers(http, 4))
        answers, took_s = await asyncio.gather(
            stream_all(http, QUESTIONS, [(TOTAL // 5, kill)]), come_later(http)
        )
    print_seconds("new requests, ingress killed", took_s)
    broken = [answer for answer in answers if answer.problem]
    assert 0 < len(broken) < NUM_STREAMS, "streams were under way on both"
    print_pauses("ingress killed, streams of its peer", [each for each in answers if not each.problem])
    for answer, whole in zip(answers, undisturbed, strict=True):
        assert answer.said == whole.said if not answer.problem else whole.text.startswith(answer.text)
    check_health(served_pair, before, within_s=REPLACED_WITHIN_S)


async def test_the_client_library_resumes_the_streams_of_a_killed_ingress(served_pair):
    before = ServerHealth.read(served_pair)
    num_pieces, killing = 0, []

    def note_piece() -> None:
        nonlocal num_pieces
        num_pieces += 1
        if num_pieces == TOTAL // 10:
            (ingress, _) = served_pair.processes("ServeReplica:gptoss:Ingress")
            killing.append(asyncio.ensure_future(asyncio.to_thread(ingress.kill)))

    async with patient_client(served_pair) as grpc_client:
        whole = await asyncio.gather(*(stream(grpc_client, number) for number in range(NUM_STREAMS)))
        assert not any(answer.problem for answer in whole), whole
        answers = await asyncio.gather(
            *(stream(grpc_client, number, note_piece) for number in range(NUM_STREAMS))
        )
    assert killing
    assert [answer.said for answer in answers] == [answer.said for answer in whole]
    print_pauses("ingress killed, streams that the client library resumes", answers)
    check_health(served_pair, before, within_s=REPLACED_WITHIN_S)
