from __future__ import annotations

from gptoss_ray.ranks.wait_times import MAX_REMEMBERED, MEMORY_S, WaitTimes


class Clock:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def times() -> tuple[Clock, WaitTimes]:
    clock = Clock()
    return clock, WaitTimes(clock)


def wait(clock: Clock, waits: WaitTimes, name: str, wait_s: float) -> None:
    waits.begin(name)
    clock.now_s += wait_s
    waits.end(name)


def test_where_nothing_waited_nothing_is_known():
    assert times()[1].recent_s() is None


def test_one_slow_wait_in_ten_does_not_count_and_two_do():
    clock, waits = times()
    for number in range(9):
        wait(clock, waits, str(number), 0.5)
    wait(clock, waits, "slow", 4.0)
    assert waits.recent_s() == 0.5
    wait(clock, waits, "slow too", 4.0)
    assert waits.recent_s() == 4.0


def test_what_still_waits_counts_once_it_has_waited_longer_than_is_usual():
    clock, waits = times()
    wait(clock, waits, "a", 1.0)
    waits.begin("stuck")
    clock.now_s += 0.5
    assert waits.recent_s() == 1.0
    clock.now_s += 7.0
    assert waits.recent_s() == 7.5


def test_what_is_given_up_and_what_is_long_ago_count_no_more():
    clock, waits = times()
    waits.begin("given up")
    clock.now_s += 5.0
    waits.drop("given up")
    assert waits.recent_s() is None
    wait(clock, waits, "a", 1.0)
    clock.now_s += MEMORY_S + 1
    assert waits.recent_s() is None


def test_a_second_end_changes_nothing_and_memory_is_bounded():
    clock, waits = times()
    for number in range(3 * MAX_REMEMBERED):
        wait(clock, waits, str(number), 0.01)
        waits.end(str(number))
        waits.drop(str(number))
    assert len(waits._ended) == MAX_REMEMBERED
    assert not waits._begun
