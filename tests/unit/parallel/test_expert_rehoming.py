from __future__ import annotations

import random

import pytest

from gptoss_ray.parallel.expert_placement import contiguous
from gptoss_ray.parallel.expert_rehoming import rehomed


def test_survivors_keep_their_slots_and_share_what_was_lost():
    first, _, third = contiguous(8, 3).slots
    assert rehomed([first, third], 8, 0).slots == ((0, 1, 2, 4), (6, 7, 3, 5))


def test_an_expert_with_a_copy_is_read_by_nobody():
    assert rehomed([(0, 1, 4), (2, 3, 5)], 6, 1).slots == ((0, 1, 4), (2, 3, 5))


def test_a_rank_alone_holds_all():
    assert rehomed([(2, 3)], 4, 0).slots == ((2, 3, 0, 1),)


def test_a_rank_that_comes_back_takes_its_experts_over_and_nobody_reads():
    before = contiguous(8, 2).slots
    degraded = rehomed([before[1]], 8, 0).slots
    assert rehomed([before[0], degraded[0]], 8, 0).slots == before


def test_copies_stay_where_there_are_slots_for_them():
    assert rehomed([(0, 1, 2), (2, 3, 0)], 4, 1).slots == ((0, 1, 2), (2, 3, 0))


@pytest.mark.parametrize("seed", range(30))
def test_every_expert_has_a_home_no_rank_is_fuller_than_planned_and_none_reads_what_it_has(seed):
    rng = random.Random(seed)
    num_ranks, num_spare = rng.randint(2, 6), rng.randint(0, 2)
    num_experts = num_ranks * rng.randint(1, 6)
    held = [list(experts) for experts in contiguous(num_experts, num_ranks).slots]
    for experts in held:
        others = sorted(set(range(num_experts)) - set(experts))
        experts.extend(rng.sample(others, min(num_spare, len(others))))
    left = rng.sample(held, rng.randint(1, num_ranks))
    placement = rehomed(left, num_experts, num_spare)
    assert placement.num_experts == num_experts
    num_lost = num_experts - len(set().union(*left))
    num_read = 0
    for before, after in zip(left, placement.slots, strict=True):
        assert len(after) <= -(-num_experts // len(left)) + num_spare
        assert [expert for expert in before if expert in after] == list(after)[
            : len(set(before) & set(after))
        ]
        num_read += len(set(after) - set(before))
    assert num_read == num_lost
