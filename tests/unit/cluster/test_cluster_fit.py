from __future__ import annotations

import re
from collections.abc import Mapping

import pytest

from gptoss_ray.cluster.cluster_fit import find_misfit
from gptoss_ray.cluster.node_type import NodeType
from gptoss_ray.ranks.rank_placement import GroupPlacement


def node_type(name: str, amounts: Mapping[str, float] | None, max_nodes: int) -> NodeType:
    return NodeType(name, amounts, max_nodes, f"{name}.resources", f"{name}.max_workers")


HEAD = node_type("head", {"CPU": 0}, 1)
CPU = node_type("cpu", {"CPU": 16}, 2)
GPU = node_type("gpu", {"CPU": 32, "GPU": 8}, 2)
UNKNOWN = node_type("worker", None, 2)


def group(num_nodes: int = 1, num_ranks_per_node: int = 1, **amounts: float) -> GroupPlacement:
    return GroupPlacement("m", num_nodes, num_ranks_per_node, amounts)


@pytest.mark.parametrize(
    "placements",
    [
        [],
        [group(CPU=16)],
        [group(GPU=8)],
        [group(num_nodes=2, num_ranks_per_node=8, GPU=1)],
        [group(CPU=16), group(CPU=16), group(num_nodes=2, GPU=8)],
        [group(num_nodes=4, CPU=16)],
        [group(CPU=8)] * 4 + [group(CPU=32)] * 2,
    ],
)
def test_groups_fit_nodes_that_hold_their_bundles(placements):
    assert find_misfit(placements, HEAD, [CPU, GPU], 4) is None


@pytest.mark.parametrize(
    ("placement", "told"),
    [
        (
            group(CPU=33),
            "head.resources is 0 CPUs, cpu.resources is 16 CPUs, gpu.resources is 32 CPUs, but m needs "
            "33 CPUs on one node .*Take larger nodes, or lower parallel.num_ranks",
        ),
        (group(num_ranks_per_node=9, GPU=1), "gpu.resources is 8 GPUs, but m needs 9 GPUs"),
        (group(num_nodes=3, GPU=8), "^gpu.max_workers gives 2 nodes, but m needs 8 GPUs .*Have 3 of them"),
        (group(num_nodes=5, CPU=16), "cpu.max_workers gives 2 nodes, gpu.max_workers gives 2 nodes, but"),
    ],
)
def test_a_group_that_never_fits_is_told_with_field_value_and_remedy(placement, told):
    misfit = find_misfit([placement], HEAD, [CPU, GPU], 9)
    assert misfit is not None
    assert re.search(told, misfit), misfit


def test_the_limit_of_all_workers_together_counts(tmp_path):
    misfit = find_misfit([group(num_nodes=2, GPU=8)], HEAD, [CPU, GPU], 1)
    assert misfit is not None
    assert misfit.startswith("max_workers is 1, but m needs 8 GPUs on each of 2 nodes")
    assert misfit.endswith("Raise it to 2.")


def test_a_head_with_room_is_a_node_as_well():
    head = node_type("head", {"CPU": 16}, 1)
    assert find_misfit([group(num_nodes=3, CPU=16)], head, [CPU], 2) is None
    assert find_misfit([group(num_nodes=4, CPU=16)], head, [CPU], 2) is not None


def test_groups_that_fit_alone_may_not_fit_together():
    misfit = find_misfit([group(GPU=8), group(GPU=8), group(GPU=1)], HEAD, [CPU, GPU], 4)
    assert misfit is not None
    assert "gpu.max_workers is 2, max_workers is 4, and m needs 1 GPU" in misfit
    assert "gpu 1 has 0 GPUs" in misfit


def test_nodes_of_unknown_resources_are_only_counted():
    assert find_misfit([group(num_nodes=2, GPU=512)], HEAD, [UNKNOWN], 2) is None
    misfit = find_misfit([group(num_nodes=3, GPU=8)], HEAD, [UNKNOWN], 9)
    assert misfit is not None
    assert misfit.startswith("worker.max_workers gives 2 nodes")
