"""Twenty minutes of streams with a fault every 45 s: every answer is what it is when nothing happens."""

from __future__ import annotations

import asyncio
import signal
import time
from collections import Counter
from collections.abc import Callable
from random import Random

import pytest

from gptoss_ray.bench.timings import percentile
from tests.support.resumed_streams import ResumedStream, patient_client, stream
from tests.support.served_app import ServedApp
from tests.support.server_health import ServerHealth, check_health

NUM_STREAMS = 50
SOAK_S = 20 * 60
FAULT_EVERY_S = 45
STOPPED_FOR_S = 6
SEED = 7

pytestmark = [pytest.mark.fault_soak, pytest.mark.timeout(SOAK_S + 1200)]


def _kill(title: str) -> Callable[[ServedApp, Random], str]:
    def kill(served: ServedApp, rng: Random) -> str:
        found = served.processes(title)
        if not found:
            return f"no {title} to kill"
        rng.choice(found).kill()
        return f"{title} killed"

    return kill


def _stop_rank(served: ServedApp, rng: Random) -> str:
    ranks = served.processes("EngineRank")
    if not ranks:
        return "no EngineRank to stop"
    rank = rng.choice(ranks)
    rank.send_signal(signal.SIGSTOP)
    time.sleep(STOPPED_FOR_S)
    if rank.is_running():
        rank.send_signal(signal.SIGCONT)
    return "EngineRank stopped"


FAULTS = (
    _kill("EngineRank"),
    _kill("EngineRank"),
    _stop_rank,
    _kill("ServeReplica:gptoss:EngineReplica"),
    _kill("ServeReplica:gptoss:Ingress"),
)


async def test_no_answer_of_a_soak_with_faults_is_wrong_or_missing(served_pair, capsys):
    before = ServerHealth.read(served_pair)
    rng, happened = Random(SEED), Counter[str]()
    ends_at = time.monotonic() + SOAK_S
    violations: list[str] = []
    pauses_s: list[float] = []

    async with patient_client(served_pair) as client:
        expected = await asyncio.gather(*(stream(client, number) for number in range(NUM_STREAMS)))
        assert not any(answer.problem for answer in expected), expected

        def note(number: int, answer: ResumedStream) -> None:
            pauses_s.append(answer.longest_pause_s)
            if answer.said != expected[number].said:
                violations.append(f"stream {number}: {answer.problem or 'another answer'}")

        async def go_on(number: int) -> None:
            while time.monotonic() < ends_at:
                note(number, await stream(client, number))

        async def disturb() -> None:
            while time.monotonic() < ends_at - FAULT_EVERY_S:
                await asyncio.sleep(FAULT_EVERY_S)
                what = await asyncio.to_thread(rng.choice(FAULTS), served_pair, rng)
                happened[what] += 1
                with capsys.disabled():
                    left_min = (ends_at - time.monotonic()) / 60
                    print(f"{left_min:4.1f} min left | {len(pauses_s)} streams | {what}", flush=True)

        await asyncio.gather(disturb(), *(go_on(number) for number in range(NUM_STREAMS)))
    with capsys.disabled():
        p50, p99 = (percentile(pauses_s, share) for share in (0.5, 0.99))
        print(
            f"{len(pauses_s)} streams, faults {dict(happened)}, longest pauses p50 {p50:.2f} p99 {p99:.2f} s"
        )
    assert violations == []
    assert sum(count for what, count in happened.items() if not what.startswith("no ")) >= 10
    check_health(served_pair, before)
