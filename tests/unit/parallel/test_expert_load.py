from __future__ import annotations

import numpy as np
import pytest

from gptoss_ray.errors import ConfigError
from gptoss_ray.parallel.expert_load import imbalance, rank_loads
from gptoss_ray.parallel.expert_placement import LayerPlacement, copy_table

PLACEMENT = LayerPlacement(((0, 1), (1, 2), (2, 0, 3)))
HOSTS = ("a", "a", "b")


def test_the_load_of_a_rank_is_what_the_copy_tables_of_all_ranks_send_there() -> None:
    per_home = np.random.default_rng(0).integers(0, 50, (3, 4))
    expected = [0, 0, 0]
    for home in range(3):
        for expert, rank in enumerate(copy_table(PLACEMENT, home, HOSTS)):
            expected[rank] += per_home[home, expert]
    assert rank_loads(PLACEMENT, per_home, HOSTS).tolist() == expected


def test_a_load_per_expert_is_taken_to_come_evenly_from_all_ranks() -> None:
    load = [3, 6, 9, 30]
    assert rank_loads(PLACEMENT, load, HOSTS).tolist() == rank_loads(PLACEMENT, [load] * 3, HOSTS).tolist()


def test_imbalance_is_the_largest_load_over_the_mean_and_one_without_load() -> None:
    assert imbalance(np.array([6, 2, 1])) == 2.0
    assert imbalance(np.array([0, 0])) == 1.0


@pytest.mark.parametrize(
    "load", [[0.5, 1.0], [1, -1], 3, [[1, 2]], [[[1]]]], ids=["float", "negative", "scalar", "ranks", "3-d"]
)
def test_a_load_of_another_kind_is_refused(load: object) -> None:
    with pytest.raises(ConfigError, match=r"whole numbers >= 0.*\[3, E\]"):
        rank_loads(PLACEMENT, load, HOSTS)
