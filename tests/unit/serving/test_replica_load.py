from __future__ import annotations

from dataclasses import dataclass, replace

import pytest

from gptoss_ray.ranks.group_load import GroupLoad
from gptoss_ray.ranks.group_stats import GroupStats
from gptoss_ray.serving.replica_load import MAX_AGE_S, load_figures, read_loads
from tests.support.group_stats import healed_group, rank_stats

NOW_S = 1_000_000.0


@dataclass
class Point:
    timestamp: float
    value: float


def reported(**loads: tuple[float, GroupLoad]) -> dict[str, dict[str, list[Point]]]:
    """What Serve would hand over: an old sample, and the load at a moment, by name and replica."""
    figures: dict[str, dict[str, list[Point]]] = {}
    for replica, (at_s, load) in loads.items():
        for name, value in load_figures(load).items():
            figures.setdefault(name, {})[replica] = [Point(at_s - 3, 77.0), Point(at_s, value)]
    return figures


@pytest.mark.parametrize("first_token_s", [None, 0.25])
def test_a_load_comes_through_serve_as_it_was(first_token_s):
    load = GroupLoad(3.0, 0.5, 2.0, 120.0, first_token_s)
    assert read_loads(reported(a=(NOW_S, load)), ["a"], NOW_S) == [load]


def test_a_replica_that_starts_or_was_not_heard_of_for_long_says_nothing():
    load = GroupLoad(3.0, 0.5, 2.0, 120.0)
    figures = reported(a=(NOW_S - 1, load), lost=(NOW_S - MAX_AGE_S - 1, load), ended=(NOW_S, load))
    assert read_loads(figures, ["a", "lost", "starting"], NOW_S) == [load]
    assert read_loads({}, ["starting"], NOW_S) == []


def group(*ranks: tuple[int, float, float | None]) -> GroupStats:
    """Ranks by running sequences, share of KV blocks and time to the first token; 4 requests wait."""
    stats = tuple(
        replace(
            rank_stats(0, num_running=num_running, num_waiting=1, kv_cache_usage=kv_use),
            first_token_s=first_s,
        )
        for num_running, kv_use, first_s in ranks
    )
    return replace(healed_group(), ranks=stats, num_queued=4, num_queued_tokens=640)


def test_the_load_of_a_group_is_that_of_its_ranks_and_of_what_waits_before_them():
    load = GroupLoad.of(group((3, 0.2, 0.5), (5, 0.4, 2.0)), 1.5)
    assert load == GroupLoad(10, pytest.approx(0.3), 4, 640, 3.5)
    assert GroupLoad.of(group((3, 0.2, None)), None).first_token_s is None
    assert GroupLoad.of(group(), 1.5) is None
