from __future__ import annotations

import pytest

from gptoss_ray.errors import GroupBrokenError
from gptoss_ray.parallel import peer_watch
from gptoss_ray.parallel.peer_watch import LINE_WORDS, PeerWatch, Wait


class Clock:
    """Time that passes only by waiting: a yield takes 1 us, waking up 60 us more than the sleep."""

    def __init__(self) -> None:
        self.now = 0.0
        self.num_yields = 0
        self.sleeps: list[float] = []

    def perf_counter(self) -> float:
        self.now += 1e-7
        return self.now

    def sched_yield(self) -> None:
        self.num_yields += 1
        self.now += 1e-6

    def sleep(self, seconds: float) -> None:
        self.sleeps.append(seconds)
        self.now += seconds + 60e-6


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(peer_watch, "time", clock)
    monkeypatch.setattr(peer_watch, "_sched_yield", clock.sched_yield)
    return clock


def watches(world_size: int, timeout_s: float = 1.0) -> list[PeerWatch]:
    words = memoryview(bytearray(world_size * LINE_WORDS * 8)).cast("q")
    return [PeerWatch(words, rank, world_size, timeout_s) for rank in range(world_size)]


def wait_until(clock: Clock, end: float, wait: Wait) -> None:
    while clock.now < end:
        wait.pause([1])


def test_a_peer_some_microseconds_late_costs_neither_a_yield_nor_a_sleep(clock):
    wait_until(clock, 15e-6, Wait(watches(2)[0], yield_s=1e-3))
    assert (clock.num_yields, clock.sleeps) == (0, [])


def test_a_peer_within_the_yield_time_is_waited_for_awake(clock):
    wait_until(clock, 0.9e-3, Wait(watches(2)[0], yield_s=1e-3))
    assert clock.num_yields > 100
    assert clock.sleeps == []


def test_a_peer_50_ms_late_costs_under_a_hundred_wakeups_and_is_noticed_within_an_eighth(clock):
    wait_until(clock, 50e-3, Wait(watches(2)[0], yield_s=2e-4))
    assert clock.num_yields < 200
    assert len(clock.sleeps) < 100
    assert clock.now <= 50e-3 + 2e-3 + 60e-6


def test_progress_makes_a_rank_wait_awake_again(clock):
    wait = Wait(watches(2)[0], yield_s=1e-3)
    wait_until(clock, 20e-3, wait)
    wait.restart()
    num_sleeps = len(clock.sleeps)
    wait_until(clock, clock.now + 0.9e-3, wait)
    assert len(clock.sleeps) == num_sleeps


def test_a_peer_that_left_is_lost_only_if_one_more_look_is_in_vain(clock):
    watch, peer, _ = watches(3)
    wait = Wait(watch, yield_s=0.0)
    peer.leave(1)
    clock.now += 1e-3
    wait.pause([1])
    wait.pause([2])
    with pytest.raises(GroupBrokenError, match="rank 1 left"):
        wait.pause([1])


def test_who_waits_for_a_rank_that_lost_another_learns_whom(clock):
    first, second, third = watches(3)
    third.leave(2)
    for watch, awaited in ((second, 2), (first, 1)):
        wait = Wait(watch, yield_s=0.0)
        clock.now += 1e-3
        wait.pause([awaited])
        with pytest.raises(GroupBrokenError, match="rank 2 left"):
            wait.pause([awaited])


def test_a_rank_later_than_the_deadline_is_named(clock):
    with pytest.raises(GroupBrokenError, match=r"rank 1 took no part for 0\.3 s"):
        wait_until(clock, 1.0, Wait(watches(2, timeout_s=0.3)[0], yield_s=1e-3))
    assert clock.now < 0.31
