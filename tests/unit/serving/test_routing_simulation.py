"""What the router is worth on conversations, in simulated time: the same on every machine."""

from __future__ import annotations

import itertools
import random
from collections.abc import Mapping, Sequence

import pytest

from gptoss_ray.bench.multi_turn_trace import MultiTurnTrace
from gptoss_ray.bench.routing_report import MIN_RATIO, RoutedTrace, RoutingReport
from gptoss_ray.ranks.prefix_index import PrefixIndex
from gptoss_ray.serving.replica_selector import STATS_PERIOD_S, ReplicaSelector, routing_stats
from tests.support.routing_simulation import BLOCK, Choose, SimulatedReplica, replay, two_choices

NAMES = ("a", "b", "c")
SEATS = 16
TRACE = MultiTurnTrace(num_conversations=90, num_turns=8, turn_tokens=400, think_s=2.0)
NUM_USERS = 12


def fleet() -> dict[str, SimulatedReplica]:
    """Replicas whose caches hold half of the conversations together with a third more."""
    num_blocks = TRACE.num_conversations * TRACE.num_tokens // BLOCK // 2
    return {name: SimulatedReplica(PrefixIndex(num_blocks)) for name in NAMES}


def by_prefix(replicas: Mapping[str, SimulatedReplica], num_routers: int, *, tells: bool = True) -> Choose:
    """Return the choice of so many routers, one of which gets each turn at random."""
    routers = [ReplicaSelector(BLOCK, SEATS, 10_000, random.Random(n).random) for n in range(num_routers)]
    draw = random.Random(1)
    told_at_s = itertools.count(0, STATS_PERIOD_S)
    next_s = next(told_at_s)

    def choose(now_s: float, hashes: Sequence[bytes], num_tokens: int, num_live: Mapping[str, int]) -> str:
        nonlocal next_s
        while tells and now_s >= next_s:
            next_s = next(told_at_s)
            for router, (name, replica) in itertools.product(routers, replicas.items()):
                router.learn(name, routing_stats(replica.ends[-1000:]))
        router = draw.choice(routers)
        name = router.order(hashes, num_tokens, num_live)[0]
        router.note(name, hashes)
        return name

    return choose


def trace_by_prefix(num_routers: int = 1, *, tells: bool = True) -> RoutedTrace:
    replicas = fleet()
    return replay(TRACE, replicas, NUM_USERS, by_prefix(replicas, num_routers, tells=tells), "ours")


@pytest.fixture(scope="module")
def default() -> RoutedTrace:
    return replay(TRACE, fleet(), NUM_USERS, two_choices(), "Serve's")


@pytest.mark.parametrize("num_routers", [1, 4])
def test_conversations_find_their_prefixes_and_first_tokens_come_twice_as_soon(default, num_routers):
    ours = trace_by_prefix(num_routers)
    assert len(ours.turns) == len(default.turns) == TRACE.num_conversations * TRACE.num_turns
    assert ours.hit_rate > 0.75
    assert ours.hit_rate > 1.3 * default.hit_rate
    assert RoutingReport(default, ours).p99_ratio >= MIN_RATIO
    assert ours.seconds <= default.seconds


def test_routers_find_less_where_replicas_do_not_tell_them_of_each_other():
    assert trace_by_prefix(4, tells=False).hit_rate < trace_by_prefix(4).hit_rate - 0.05


def test_the_same_trace_gives_the_same_figures():
    assert trace_by_prefix(4).turns == trace_by_prefix(4).turns
