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
NUM_CUTS = 3
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


@dataclass
class Cut:
    """A host whose link is down for a while: when it went and came back, in Unix time."""

    host: Host
    began_s: float = 0.0
    ended_s: float = 0.0

    def make(self) -> None:
        self.host.run("ip", "link", "set", "eth0", "down")
        self.began_s = time.time()
        time.sleep(AWAY_S)
        self.host.run("ip", "link", "set", "eth0", "up")
        self.ended_s = time.time()


async def moments_of(http, kind: str, since_s: float) -> list[float]:
    """Return when events of a kind happened to the group."""
    answer = await http.get("/dashboard/state")
    ((replica,),) = [model["replicas"] for model in answer.json()["models"]]
    return [each["time"] for each in replica["events"] if each["kind"] == kind and each["time"] > since_s]


async def check_cut(http, cluster, questions, undisturbed) -> None:
    """Cut off a host under streams: they go on, exactly, and in the end the group has all its ranks."""
    cut = Cut(host_with_a_rank_alone(cluster))
    (rank_before,) = ranks_of(cut.host)
    point = NUM_STREAMS * NUM_LONG_TOKENS // 4
    answers = await stream_all(http, questions, [(point, cut.make)])
    assert [answer.said for answer in answers] == [answer.said for answer in undisturbed]
    print_pauses(f"a host cut off for {AWAY_S} s", answers)
    deadline = time.monotonic() + WHOLE_WITHIN_S
    while not (back := await moments_of(http, "rank_replaced", cut.began_s)):
        assert time.monotonic() < deadline
        await asyncio.sleep(0.5)
    assert [len(ranks_of(host)) for host in cluster] == [1, 1, 1]
    assert rank_before not in ranks_of(cut.host), "what was cut off must not go on"
    (lost, *_), (granted, *_) = [
        await moments_of(http, kind, cut.began_s) for kind in ("rank_lost", "epoch_granted")
    ]
    print(
        f"lost after {lost - cut.began_s:.2f} s, the others in step after {granted - cut.began_s:.2f} s, "
        f"its rank replaced {back[-1] - cut.ended_s:.2f} s after its link was back"
    )
    again = await stream_all(http, questions)
    assert [answer.said for answer in again] == [answer.said for answer in undisturbed]


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
                for _ in range(NUM_CUTS):
                    await check_cut(http, cluster, questions, undisturbed)
