from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gptoss_ray.config import ScalingConfig
from gptoss_ray.ranks.group_load import GroupLoad
from gptoss_ray.serving.scaling_decision import (
    DOWN_MARGIN,
    MAX_GAP_S,
    Observation,
    ScalingMemory,
    decide,
    replicas_needed,
)

NUM_SEATS = 10
TICK_S = 1.0

configs = st.builds(
    lambda low, more, **fields: ScalingConfig(min_replicas=low, max_replicas=max(1, low + more), **fields),
    st.integers(0, 4),
    st.integers(0, 8),
    target_running=st.sampled_from((0.5, 0.75, 1.0)),
    target_kv_use=st.sampled_from((0.5, 0.8)),
    target_queued_tokens=st.sampled_from((100, 5000)),
    target_first_token_s=st.sampled_from((None, 0.5, 3.0)),
    up_delay_s=st.sampled_from((0.0, 2.0)),
    down_delay_s=st.sampled_from((0.0, 20.0)),
    zero_delay_s=st.sampled_from((0.0, 60.0)),
)
load_values = st.builds(
    GroupLoad,
    num_running=st.integers(0, 2 * NUM_SEATS),
    kv_use=st.floats(0, 1),
    num_queued=st.integers(0, 50),
    num_queued_tokens=st.floats(0, 20_000),
    first_token_s=st.none() | st.floats(0, 20),
)
memories = st.builds(
    ScalingMemory,
    at_s=st.just(999.0),
    high_since_s=st.none() | st.floats(900, 999),
    low_since_s=st.none() | st.floats(900, 999),
    low_peak=st.integers(0, 12),
)
observations = st.builds(
    lambda loads, silent, held, last_up_s: Observation(
        1000.0, len(loads) + silent, tuple(loads), held, last_up_s
    ),
    st.lists(load_values, max_size=6),
    st.integers(0, 3),
    st.sampled_from((0.0, 1.0)),
    st.none() | st.floats(900, 1000),
)


class Fleet:
    """Replicas under a policy: time passes in ticks, each replica has an equal part of the load."""

    def __init__(self, config: ScalingConfig, num_replicas: int = 1) -> None:
        self.config = config
        self.num_replicas = num_replicas
        self.now_s = 1000.0
        self.last_up_s: float | None = None
        self.memory = ScalingMemory()
        self.history: list[int] = []

    def run(self, seconds: float, *, num_running: float = 0.0, held: float = 0.0, silent: int = 0) -> int:
        """Let time pass; return how many replicas there are then."""
        for _ in range(round(seconds / TICK_S)):
            self.now_s += TICK_S
            num_speaking = max(0, self.num_replicas - silent)
            share = num_running / max(1, num_speaking)
            loads = [GroupLoad(share, 0.0, 0.0, 0.0)] * num_speaking
            seen = Observation(self.now_s, self.num_replicas, loads, held, self.last_up_s)
            wanted, self.memory = decide(seen, self.memory, self.config, NUM_SEATS)
            if wanted > self.num_replicas:
                self.last_up_s = self.now_s
            self.num_replicas = wanted
            self.history.append(wanted)
        return self.num_replicas


def scaling(**fields: float) -> ScalingConfig:
    base = {
        "min_replicas": 1,
        "max_replicas": 8,
        "target_running": 0.8,
        "up_delay_s": 3.0,
        "down_delay_s": 60.0,
        "zero_delay_s": 300.0,
    }
    return ScalingConfig.model_validate(base | fields)


@settings(deadline=None)
@given(configs, observations, memories)
def test_the_number_stays_within_its_bounds(config, seen, memory):
    wanted, _ = decide(seen, memory, config, NUM_SEATS)
    assert config.min_replicas <= wanted <= config.max_replicas


@settings(deadline=None)
@given(
    configs,
    observations.filter(lambda seen: seen.loads),
    memories,
    st.data(),
    st.integers(0, NUM_SEATS),
    st.floats(0, 1),
    st.floats(0, 9000),
    st.floats(0, 9),
)
def test_more_load_anywhere_never_means_fewer_replicas(config, seen, memory, data, running, kv, queued, late):
    index = data.draw(st.integers(0, len(seen.loads) - 1))
    load = seen.loads[index]
    heavier = GroupLoad(
        load.num_running + running,
        min(1.0, load.kv_use + kv),
        load.num_queued + (queued > 0),
        load.num_queued_tokens + queued,
        None if load.first_token_s is None else load.first_token_s + late,
    )
    loads = [*seen.loads[:index], heavier, *seen.loads[index + 1 :]]
    before, _ = decide(seen, memory, config, NUM_SEATS)
    after, _ = decide(replace(seen, loads=loads), memory, config, NUM_SEATS)
    assert after >= before


@settings(deadline=None)
@given(configs, observations.filter(lambda seen: seen.loads), memories, st.data())
def test_a_replica_that_falls_silent_neither_adds_replicas_nor_takes_any(config, seen, memory, data):
    index = data.draw(st.integers(0, len(seen.loads) - 1))
    idle = [*seen.loads]
    idle[index] = GroupLoad(0.0, 0.0, 0.0, 0.0)
    full = [*seen.loads]
    full[index] = GroupLoad(NUM_SEATS * config.target_running, 1.0, 100.0, config.target_queued_tokens, 1e9)
    silent = [*seen.loads[:index], *seen.loads[index + 1 :]]
    (low, _), (wanted, _), (high, _) = (
        decide(replace(seen, loads=loads), memory, config, NUM_SEATS) for loads in (idle, silent, full)
    )
    assert low <= wanted <= high
    assert wanted <= max(seen.num_wanted, low, config.min_replicas)


@settings(deadline=None)
@given(st.integers(0, 60), st.integers(1, 8))
def test_under_a_steady_load_the_number_settles_and_moves_no_more(num_running, num_replicas):
    fleet = Fleet(scaling(), num_replicas)
    settled = fleet.run(200, num_running=num_running)
    fleet.history.clear()
    fleet.run(300, num_running=num_running)
    assert set(fleet.history) == {settled}
    target = scaling().target_running * NUM_SEATS
    needed = min(8, max(1, math.ceil(num_running / target - 1e-9)))
    assert needed <= settled <= min(8, max(1, math.ceil(num_running / target / (1 - DOWN_MARGIN))))


def test_more_are_there_as_soon_as_the_load_has_lasted_and_no_sooner():
    fleet = Fleet(scaling())
    assert fleet.run(3, num_running=20) == 1
    assert fleet.run(1, num_running=20) == 3


def test_a_load_that_comes_and_goes_takes_no_replica_away():
    fleet = Fleet(scaling())
    fleet.run(10, num_running=30)
    fleet.history.clear()
    for _ in range(20):
        fleet.run(15, num_running=2)
        fleet.run(15, num_running=30)
    assert set(fleet.history) == {4}


def test_what_was_needed_at_the_worst_moment_of_the_delay_is_kept():
    fleet = Fleet(scaling(), 6)
    fleet.run(30, num_running=1)
    fleet.run(5, num_running=13)
    assert fleet.run(27, num_running=1) == 3


def test_one_that_was_just_raised_is_not_lowered_within_the_delay():
    fleet = Fleet(scaling(down_delay_s=30))
    fleet.run(4, num_running=20)
    assert fleet.run(29, num_running=0) == 3
    assert fleet.run(3, num_running=0) == 1


def test_the_last_one_goes_only_after_long_idleness_and_the_first_comes_at_once():
    fleet = Fleet(scaling(min_replicas=0))
    assert fleet.run(299) == 1
    assert fleet.run(5, num_running=1) == 1
    assert fleet.run(300) == 1
    assert fleet.run(2) == 0
    assert fleet.run(60) == 0
    assert fleet.run(1, held=1) == 1


def test_one_that_starts_is_not_taken_away_because_who_asked_for_it_has_left():
    fleet = Fleet(scaling(min_replicas=0), 0)
    fleet.run(1, held=1)
    assert fleet.run(1000, silent=1) == 1


def test_after_a_gap_nothing_that_was_seen_before_counts():
    fleet = Fleet(scaling(), 3)
    fleet.run(59, num_running=1)
    fleet.now_s += MAX_GAP_S + 1
    assert fleet.run(59, num_running=1) == 3
    assert fleet.run(3, num_running=1) == 1


@pytest.mark.parametrize(
    ("load", "needed"),
    [
        (GroupLoad(8.0, 0.1, 0.0, 0.0), 1.0),
        (GroupLoad(8.0, 0.1, 16.0, 320.0), 3.0),
        (GroupLoad(0.0, 0.8, 0.0, 0.0), 1.0),
        (GroupLoad(8.0, 0.8, 0.0, 0.0), 1.0),
        (GroupLoad(2.0, 0.8, 1.0, 32_768.0), 3.0),
        (GroupLoad(4.0, 0.1, 0.0, 0.0, 3.0), 1.5),
        (GroupLoad(4.0, 0.1, 0.0, 0.0, 300.0), 2.0),
        (GroupLoad(1.0, 0.1, 0.0, 0.0, 300.0), 0.125),
        (GroupLoad(4.0, 0.1, 0.0, 0.0, None), 0.5),
    ],
)
def test_a_replica_counts_as_what_it_is_fullest_of(load, needed):
    assert replicas_needed([load], scaling(target_first_token_s=2.0), NUM_SEATS) == pytest.approx(needed)
    assert replicas_needed([load] * 3, scaling(target_first_token_s=2.0), NUM_SEATS) == pytest.approx(
        3 * needed
    )
