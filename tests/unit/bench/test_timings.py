from __future__ import annotations

from gptoss_ray.bench.timings import Timings, percentile, time_calls


def test_the_first_call_is_not_counted_and_numbers_count_on():
    numbers: list[int] = []
    timings = time_calls(numbers.append, min_calls=3, min_s=0.0)
    assert numbers == [0, 1, 2, 3]
    assert len(timings.seconds) == 3


def test_calls_go_on_until_enough_time_has_passed():
    assert sum(time_calls(lambda _: None, min_calls=1, min_s=0.001).seconds) >= 0.001


def test_a_percentile_is_a_value_that_enough_others_do_not_exceed():
    assert percentile([3.0, 1.0, 2.0], 0.5) == 2.0
    assert percentile([1.0], 0.95) == 1.0
    assert percentile(range(1, 101), 0.95) == 95
    timings = Timings((4.0, 1.0, 2.0, 3.0))
    assert (timings.median_s, timings.p95_s) == (2.5, 4.0)
