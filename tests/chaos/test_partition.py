"""The link of a host goes down under streams: the others go on, and the host is fenced until it is back."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest

from tests.chaos.conftest import QUESTIONS
from tests.support.hosts import Host, hosts, why_no_hosts
from tests.support.ray_on_hosts import KEY, ray_environment, served, start_ray, write_config
from tests.support.streamed_answers import NUM_LONG_TOKENS, client, print_pauses, stream_all

NUM_HOSTS = 3
AWAY_S = 10
NUM_STREAMS = 24
WHOLE_WITHIN_S = 120

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(1200)]


@dataclass(frozen=True)
class Address:
    """What a client needs to know of a server."""

    base_url: str
    headers: dict[str, str] = field(default_factory=lambda: KEY)


def ranks_of(host: Host) -> list[int]:
    return [process.pid for process in host.processes("ray::EngineRank")]


def host_with_a_rank_alone(cluster: Sequence[Host]) -> Host:
    """Return a host that only computes: neither Ray's head nor the replica is on it."""
    return next(host for host in cluster[1:] if not host.processes("EngineReplica"))


def cut_off(host: Host) -> None:
    """Take the host's link down for a while."""
    host.run("ip", "link", "set", "eth0", "down")
    time.sleep(AWAY_S)
    host.run("ip", "link", "set", "eth0", "up")


@pytest.mark.skipif(why_no_hosts() is not None, reason=str(why_no_hosts()))
async def test_a_host_that_is_cut_off_is_fenced_its_streams_go_on_and_its_rank_comes_back(tmp_path):
    environment = ray_environment(tmp_path)
    questions = QUESTIONS[:NUM_STREAMS]
    with hosts(NUM_HOSTS, tmp_path) as cluster:
        start_ray(cluster, environment)
        config = write_config(tmp_path / "serve.yaml", cluster[0], NUM_HOSTS, NUM_HOSTS, name="tiny")
        with served(cluster[0], config, environment) as url:
            async with client(Address(url)) as http:
                undisturbed = await stream_all(http, questions)
                assert not any(answer.problem for answer in undisturbed), undisturbed
                lost = host_with_a_rank_alone(cluster)
                (rank_before,) = ranks_of(lost)
                point = NUM_STREAMS * NUM_LONG_TOKENS // 4
                answers = await stream_all(http, questions, [(point, lambda: cut_off(lost))])
                assert [answer.said for answer in answers] == [answer.said for answer in undisturbed]
                print_pauses(f"a host cut off for {AWAY_S} s", answers)
                back_at = time.monotonic()
                while rank_before in ranks_of(lost) or [len(ranks_of(host)) for host in cluster] != [1, 1, 1]:
                    assert time.monotonic() < back_at + WHOLE_WITHIN_S
                    await asyncio.sleep(0.5)
                print(f"its rank was replaced {time.monotonic() - back_at:.1f} s after the last token")
                again = await stream_all(http, questions)
                assert [answer.said for answer in again] == [answer.said for answer in undisturbed]
