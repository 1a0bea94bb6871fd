from __future__ import annotations

import pytest

from gptoss_ray.config import ParallelConfig
from gptoss_ray.parallel.step_deadline import FIRST_DEADLINE_S, MIN_DEADLINE_S, StepDeadline


def learned(**steps_s: float) -> StepDeadline:
    deadline = StepDeadline(ParallelConfig(num_ranks=2))
    for _ in range(3):
        for num_tokens, seconds in steps_s.items():
            deadline.note(int(num_tokens.removeprefix("n")), seconds)
    return deadline


def test_a_new_epoch_has_time_to_warm_up():
    deadline = StepDeadline(ParallelConfig(num_ranks=2))
    for _ in range(3):
        assert deadline.of_step(1) == FIRST_DEADLINE_S
        deadline.note(1, 0.01)
    assert deadline.of_step(1) == MIN_DEADLINE_S


def test_the_first_step_of_an_epoch_in_which_graphs_are_recorded_allows_no_later_one_more_time():
    deadline = StepDeadline(ParallelConfig(num_ranks=2))
    for seconds in (100.0, 0.01, 0.01):
        deadline.note(4, seconds)
    assert deadline.of_step(4) == MIN_DEADLINE_S


def test_a_step_may_take_ten_times_the_longest_of_its_size():
    deadline = learned(n4=0.5, n5=1.0)
    deadline.note(4, 2.0)
    deadline.note(4, 0.1)
    assert deadline.of_step(7) == 20.0


@pytest.mark.parametrize(("num_tokens", "seconds"), [(1, 10.0), (4, 10.0), (16, 40.0), (64, 160.0)])
def test_a_larger_step_may_take_longer_in_proportion_and_a_smaller_one_as_long(num_tokens, seconds):
    assert learned(n4=1.0).of_step(num_tokens) == seconds


def test_the_agreement_behind_a_step_waits_as_long_as_the_step_and_for_ranks_that_sleep():
    assert learned(n4=1.0).of_sync(4) == 10.0 + ParallelConfig().heartbeat_s


def test_a_configured_deadline_is_always_the_answer():
    deadline = StepDeadline(ParallelConfig(num_ranks=2, collective_timeout_s=7.0))
    deadline.note(1, 100.0)
    assert (deadline.of_step(1), deadline.of_step(1000), deadline.of_sync(1)) == (7.0, 7.0, 7.0)
