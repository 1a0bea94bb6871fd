from __future__ import annotations

import itertools

import numpy as np
import pytest

from gptoss_ray.errors import ConfigError
from gptoss_ray.parallel.expert_balance import balanced
from gptoss_ray.parallel.expert_load import LoadModel, Loads, imbalance, rank_loads
from gptoss_ray.parallel.expert_placement import LayerPlacement, contiguous

LARGEST_GAP = 1.04
"""Largest load found over the smallest possible, never exceeded on small cases."""


def capacity(num_experts: int, num_ranks: int, num_spare: int) -> list[int]:
    return [len(experts) + num_spare for experts in contiguous(num_experts, num_ranks).slots]


def num_fetched(before: LayerPlacement, after: LayerPlacement) -> int:
    return sum(len(set(new) - set(old)) for old, new in zip(before.slots, after.slots, strict=True))


def smallest_possible_load(load: Loads, num_ranks: int, num_spare: int, hosts: str) -> int:
    """Largest rank load of the best of all placements that fit the slots, tried one and all."""
    model = LoadModel(load, hosts)
    sets = [
        copies
        for size in range(1, num_ranks + 1)
        for copies in itertools.combinations(range(num_ranks), size)
    ]
    taken = np.array([[rank in copies for rank in range(num_ranks)] for copies in sets], dtype=np.int64)
    slots = np.array(capacity(model.num_experts, num_ranks, num_spare))
    loads = used = np.zeros((1, num_ranks), dtype=np.int64)
    for expert in range(model.num_experts):
        added = np.stack([model.of_expert(expert, copies) for copies in sets])
        loads = (loads[:, None] + added).reshape(-1, num_ranks)
        used = (used[:, None] + taken).reshape(-1, num_ranks)
        fits = (used <= slots).all(axis=1)
        loads, used = loads[fits], used[fits]
    return int(loads.max(axis=1).min())


SMALL_CASES = [(6, 2, 0, "aa"), (6, 2, 1, "aa"), (7, 3, 0, "aaa"), (5, 3, 1, "aab"), (4, 4, 1, "aabb")]


@pytest.mark.parametrize(("num_experts", "num_ranks", "num_spare", "hosts"), SMALL_CASES)
def test_small_cases_come_close_to_the_best_of_all_placements(
    num_experts: int, num_ranks: int, num_spare: int, hosts: str
) -> None:
    random = np.random.default_rng(num_experts)
    gaps = []
    for trial in range(6):
        shape = (num_ranks, num_experts) if trial % 3 == 2 else (num_experts,)
        load = random.integers(1, 100, shape) * random.integers(1, 4, shape)
        placement = balanced(load, num_ranks, num_spare, hosts, enough=1.0)
        best = smallest_possible_load(load, num_ranks, num_spare, hosts)
        gaps.append(rank_loads(placement, load, hosts).max() / best)
    assert min(gaps) >= 1.0
    assert max(gaps) <= LARGEST_GAP
    assert np.mean(np.array(gaps) == 1.0) >= 0.5


@pytest.mark.parametrize(
    ("num_experts", "num_ranks", "num_spare"), [(32, 4, 1), (32, 3, 2), (8, 4, 8), (5, 5, 1), (4, 1, 3)]
)
def test_every_expert_is_somewhere_and_no_rank_holds_more_than_its_slots(
    num_experts: int, num_ranks: int, num_spare: int
) -> None:
    load = np.random.default_rng(0).zipf(1.5, num_experts).clip(max=10**6)
    placement = balanced(load, num_ranks, num_spare, "a" * num_ranks)
    assert placement.num_experts == num_experts
    slots = capacity(num_experts, num_ranks, num_spare)
    assert all(len(held) <= room for held, room in zip(placement.slots, slots, strict=True))
    before = rank_loads(contiguous(num_experts, num_ranks), load, "a" * num_ranks)
    assert rank_loads(placement, load, "a" * num_ranks).max() <= before.max()


def test_copies_share_an_expert_that_no_rank_could_carry_alone() -> None:
    placement = balanced([100, 1, 1, 1], 4, 1, "aaaa")
    assert len(placement.ranks_of(0)) == 4
    assert imbalance(rank_loads(placement, [100, 1, 1, 1], "aaaa")) < 1.1


def test_an_expert_hotter_than_a_fair_share_does_not_leave_the_descent_stuck() -> None:
    load = (1e6 * np.arange(1, 129) ** -1.2).astype(np.int64)
    placement = balanced(load, 8, 2, "aaaaaaaa", enough=1.05)
    assert imbalance(rank_loads(placement, load, "aaaaaaaa")) <= 1.05


def test_an_even_load_and_no_load_change_nothing() -> None:
    for load in ([5] * 8, [0] * 8, [5, 3, 1, 1, 5, 3, 1, 1]):
        assert balanced(load, 2, 2, "aa") == contiguous(8, 2)


def test_a_good_placement_stays_and_a_shifted_load_moves_little() -> None:
    load = np.array([90, 40, 30, 20, 10, 10, 8, 8, 6, 6, 4, 4, 2, 2, 1, 1])
    first = balanced(load, 4, 1, "aaaa", enough=1.05)
    assert balanced(load, 4, 1, "aaaa", current=first, enough=1.05) == first
    shifted = load + np.eye(16, dtype=np.int64)[15] * 30
    second = balanced(shifted, 4, 1, "aaaa", current=first, enough=1.05)
    assert imbalance(rank_loads(second, shifted, "aaaa")) <= 1.05
    assert 0 < num_fetched(first, second) < num_fetched(contiguous(16, 4), second)


def test_what_stays_on_a_rank_keeps_its_order_there() -> None:
    start = LayerPlacement(((1, 0, 2, 3), (7, 6, 5, 4)))
    placement = balanced([50, 40, 9, 9, 1, 1, 1, 1], 2, 1, "aa", current=start)
    assert placement != start
    for before, after in zip(start.slots, placement.slots, strict=True):
        stay = [expert for expert in before if expert in after]
        assert list(after[: len(stay)]) == stay


def test_a_copy_nobody_needs_any_more_makes_room_for_another() -> None:
    load = [1, 1, 1, 60, 1, 1]
    start = LayerPlacement(((0, 1, 4, 2), (2, 3, 5, 0)))
    placement = balanced(load, 2, 1, "aa", current=start)
    assert placement.ranks_of(3) == (0, 1)


def test_equal_loads_give_equal_placements() -> None:
    load = np.random.default_rng(1).integers(0, 1000, (4, 12))
    once, again = (balanced(load, 4, 1, "aabb", enough=1.0) for _ in range(2))
    assert once == again


def test_tokens_that_all_come_from_one_rank_cannot_be_divided_and_are_not_copied() -> None:
    load = np.zeros((4, 4), dtype=np.int64)
    load[0, 0] = 100
    assert balanced(load, 4, 1, "aaaa") == contiguous(4, 4)
    assert balanced(load.sum(axis=0), 4, 1, "aaaa") != contiguous(4, 4)


def test_a_load_of_another_kind_is_refused() -> None:
    with pytest.raises(ConfigError, match="whole numbers"):
        balanced([0.5, 0.5], 2, 0, "aa")
