from __future__ import annotations

import numpy as np
import pytest

from gptoss_ray.bench.placement import Group, markdown_table, plot, run, zipf_load

SIZES = (Group(128, 8), Group(32, 4))


@pytest.mark.parametrize("group", SIZES, ids=str)
@pytest.mark.parametrize("exponent", [1.0, 1.2])
def test_an_eighth_more_slots_evens_out_a_skewed_load(group: Group, exponent: float) -> None:
    (result,) = (
        result
        for result in run((group,), exponents=(exponent,), spare_fractions=(0.125,))
        if result.order == "sorted"
    )
    row = result.row()
    assert row["spare_slots"] == "12.5%"
    assert row["before"] >= 2.5
    assert row["after"] <= 1.15


def test_zipf_loads_fall_with_rank_and_shuffling_keeps_their_sizes() -> None:
    load = zipf_load(8, 1.0)
    assert load[0] == pytest.approx(2 * load[1], abs=1) and load[0] == pytest.approx(8 * load[7], abs=8)
    shuffled = zipf_load(8, 1.0, seed=0)
    assert sorted(shuffled) == sorted(load) and not np.array_equal(shuffled, load)


def test_ranks_are_spread_evenly_over_hosts() -> None:
    assert Group(8, 4, num_hosts=2).hosts == ("host-0", "host-0", "host-1", "host-1")


def test_results_become_a_table_and_a_picture(tmp_path) -> None:
    results = list(run((Group(8, 2),), exponents=(1.0,), spare_fractions=(0.0, 0.25)))
    lines = markdown_table(results).splitlines()
    assert lines[0] == "| group | order | exponent | spare slots | before | after | fetched |"
    assert len(lines) == 2 + 4
    assert lines[3].startswith("| 8 experts, 2 ranks | sorted | 1.0 | 25.0% | 1.533 | 1.")
    plot(results, tmp_path / "placement.png")
    assert (tmp_path / "placement.png").read_bytes().startswith(b"\x89PNG")
