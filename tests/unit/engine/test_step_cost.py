from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gptoss_ray.checkpoint.model_config import ModelConfig
from gptoss_ray.config import EngineConfig
from gptoss_ray.engine.step_cost import StepCost, worthwhile_lengths

MODEL = ModelConfig.published("gpt-oss-20b")


def make_cost(**formats):
    return StepCost(MODEL, EngineConfig(dense_weights="int8", **formats))


@dataclass
class LinearCost:
    """A fixed part and one of each row."""

    fixed: float
    per_row: float

    def of(self, num_rows):
        return self.fixed + self.per_row * num_rows


def test_a_row_reads_what_a_decoded_token_is_known_to_read():
    assert make_cost().of(1) == pytest.approx(2.58e9, rel=0.05)


@pytest.mark.parametrize(("activations", "measured"), [("bfloat16", 39.8 / 12.9), ("int8", 54.6 / 17.6)])
def test_sixteen_rows_cost_what_they_were_measured_to_cost_beside_one(activations, measured):
    """Of 16 streams and of one, tokens a second as `docs/performance.md` has them."""
    cost = make_cost(activations=activations)
    assert 16 * cost.of(1) / cost.of(16) == pytest.approx(measured, rel=0.3)


def test_more_rows_cost_more_and_each_further_one_of_a_small_step_less():
    costs = [make_cost().of(num_rows) for num_rows in range(1, 30)]
    steps = [after - before for before, after in pairwise(costs)]
    assert min(steps) > 0
    assert steps[0] > steps[5] > steps[12]


def test_a_likely_draft_is_checked_whole_and_an_unlikely_one_not_at_all():
    cost = make_cost()
    assert worthwhile_lengths([(0.95, 8)], cost, 0, 64) == [8]
    assert worthwhile_lengths([(0.3, 8)], cost, 0, 64) == [0]
    [length] = worthwhile_lengths([(0.75, 8)], cost, 0, 64)
    assert 0 < length < 8


def test_rows_that_cost_as_much_as_a_token_are_not_spent_on_guesses():
    computing = LinearCost(fixed=0.0, per_row=1.0)
    assert worthwhile_lengths([(0.99, 8)] * 100, computing, 0, 64) == [0] * 100
    reading = LinearCost(fixed=1.0, per_row=0.0)
    assert worthwhile_lengths([(0.1, 4)] * 3, reading, 0, 64) == [4, 4, 4]


def test_the_larger_the_batch_the_likelier_a_guess_has_to_be():
    cost = LinearCost(fixed=8.0, per_row=1.0)

    def least_likely(num_sequences):
        return next(
            percent
            for percent in range(1, 101)
            if any(worthwhile_lengths([(percent / 100, 1)] * num_sequences, cost, 0, 1000))
        )

    least = [least_likely(num_sequences) for num_sequences in (1, 4, 16, 32)]
    assert least == sorted(least)
    assert least[0] < 30
    assert least[-1] > 80


def test_a_gain_that_is_smaller_than_what_is_known_of_the_cost_is_left():
    assert worthwhile_lengths([(0.05, 1)], LinearCost(1.0, 0.0), 0, 64) == [0]
    assert worthwhile_lengths([(0.15, 1)], LinearCost(1.0, 0.0), 0, 64) == [1]


def test_rows_go_to_the_likelier_drafts_first():
    lengths = worthwhile_lengths([(0.5, 4), (0.9, 4), (0.0, 4)], LinearCost(1.0, 0.0), 0, 5)
    assert lengths == [1, 4, 0]


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.floats(0, 1), st.integers(0, 8)), max_size=10),
    st.floats(0.01, 10),
    st.floats(0, 10),
    st.integers(0, 50),
    st.integers(0, 40),
)
def test_no_draft_grows_and_no_step_has_more_than_its_room(drafts, fixed, per_row, num_other_rows, room):
    lengths = worthwhile_lengths(drafts, LinearCost(fixed, per_row), num_other_rows, room)
    assert len(lengths) == len(drafts)
    assert all(0 <= taken <= length for taken, (_, length) in zip(lengths, drafts, strict=True))
    assert sum(lengths) <= room
