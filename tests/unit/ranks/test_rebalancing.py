from __future__ import annotations

import numpy as np
import pytest

from gptoss_ray.parallel import expert_balance
from gptoss_ray.parallel.expert_load import imbalance, rank_loads
from gptoss_ray.parallel.expert_placement import contiguous
from gptoss_ray.ranks.rebalancing import better_placement

HOSTS = ("a", "a")
PRESENT = contiguous(8, 2)


def of_every_home(*tokens: int) -> np.ndarray:
    return np.array([tokens, tokens])


def imbalance_of(placement, load):
    return imbalance(rank_loads(placement, load, HOSTS))


def test_experts_move_where_one_rank_has_most_of_the_load():
    load = of_every_home(90, 80, 70, 60, 1, 1, 1, 1)
    found = better_placement(load, PRESENT, 1, HOSTS)
    assert imbalance_of(PRESENT, load) > 1.9
    assert imbalance_of(found, load) < 1.1
    assert max(len(experts) for experts in found.slots) == 5


@pytest.mark.parametrize("load", [of_every_home(*[5] * 8), of_every_home(*[0] * 8)])
def test_an_even_load_and_none_are_not_even_searched(load, monkeypatch):
    monkeypatch.setattr(expert_balance, "_Draft", None)
    assert better_placement(load, PRESENT, 1, HOSTS) is None


def test_a_small_gain_is_not_worth_a_swap():
    load = of_every_home(26, 26, 26, 27, 25, 25, 25, 25)
    assert 1 < imbalance_of(PRESENT, load) < 1.1
    assert better_placement(load, PRESENT, 1, HOSTS) is None


def test_a_load_that_no_placement_divides_leaves_all_as_it_is():
    """All tokens come from one rank, so a copy of the one hot expert takes none of them."""
    load = np.array([[100, 0, 0, 0, 0, 0, 0, 0], [0] * 8])
    assert imbalance_of(PRESENT, load) == 2
    assert better_placement(load, PRESENT, 1, HOSTS) is None


def test_what_was_found_is_worth_no_other_swap_under_the_same_load():
    load = of_every_home(90, 80, 7, 60, 1, 30, 1, 1)
    found = better_placement(load, PRESENT, 1, HOSTS)
    assert better_placement(load, found, 1, HOSTS) is None
