from __future__ import annotations

import itertools
from collections import Counter

import pytest

from gptoss_ray.errors import ConfigError
from gptoss_ray.parallel.expert_placement import (
    LayerPlacement,
    contiguous,
    copy_table,
    serving_ranks,
)

COPIED = LayerPlacement(((0, 1), (2, 3, 0), (4,)))


def test_a_contiguous_placement_gives_every_expert_once_in_order() -> None:
    for num_experts, num_ranks in ((32, 1), (32, 3), (128, 8), (5, 5)):
        placement = contiguous(num_experts, num_ranks)
        assert list(itertools.chain(*placement.slots)) == list(range(num_experts))
        assert (placement.num_ranks, placement.num_experts) == (num_ranks, num_experts)


def test_uneven_experts_go_to_the_first_ranks() -> None:
    assert [len(experts) for experts in contiguous(32, 3).slots] == [11, 11, 10]


def test_more_ranks_than_experts_are_refused_with_the_numbers() -> None:
    with pytest.raises(ConfigError, match="num_ranks 5 is more than the 4 experts") as caught:
        contiguous(4, 5)
    assert caught.value.param == "parallel.num_ranks"


def test_a_placement_knows_the_ranks_of_an_expert_and_the_experts_of_a_rank() -> None:
    assert [COPIED.ranks_of(expert) for expert in range(5)] == [(0, 1), (0,), (1,), (1,), (2,)]
    assert COPIED.local_slots(1) == (2, 3, 0)


@pytest.mark.parametrize("slots", [((0, 2),), ((0, 1, 0),)], ids=["an expert lost", "held twice by a rank"])
def test_a_placement_that_cannot_serve_is_no_placement(slots: tuple[tuple[int, ...], ...]) -> None:
    with pytest.raises(AssertionError):
        LayerPlacement(slots)


def test_tokens_go_to_the_own_rank_then_the_own_host_then_by_home_rank() -> None:
    hosts = ("a", "a", "a", "b", "b", "c")
    assert serving_ranks((1, 3), hosts) == (1, 1, 1, 3, 3, 3)
    assert serving_ranks((0, 1), hosts) == (0, 1, 0, 1, 0, 1)
    assert [copy_table(COPIED, home, ("a", "b", "b")) for home in range(3)] == [
        [0, 0, 1, 1, 2],
        [1, 0, 1, 1, 2],
        [1, 0, 1, 1, 2],
    ]


@pytest.mark.parametrize("hosts", ["aaaaaaaa", "aaaabbbb", "aaabbbcc", "abababab"])
def test_the_rule_holds_for_every_set_of_copies(hosts: str) -> None:
    ranks = range(len(hosts))
    for num_copies in range(1, len(hosts) + 1):
        for copies in itertools.combinations(ranks, num_copies):
            serving = serving_ranks(copies, tuple(hosts))
            for home in ranks:
                near = [rank for rank in copies if hosts[rank] == hosts[home]]
                assert serving[home] in ([home] if home in copies else near or copies)
            if len(set(hosts)) == 1:
                served = Counter(serving).values()
                assert max(served) - min(served) <= 1
