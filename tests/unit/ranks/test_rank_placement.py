from __future__ import annotations

import itertools

import pytest

from gptoss_ray.config import EngineConfig, ParallelConfig, ServedModelConfig
from gptoss_ray.ranks.rank_placement import GroupPlacement, NodeResources, find_shortfall


def placement(num_threads: int = 1, model: str = "m", **parallel: object) -> GroupPlacement:
    return GroupPlacement.of(
        ServedModelConfig(
            name=model,
            checkpoint="demo",
            engine=EngineConfig(num_threads=num_threads),
            parallel=ParallelConfig.model_validate(parallel),
        )
    )


def nodes(*cpus: float, gpus: float = 0) -> list[NodeResources]:
    return [NodeResources(f"10.0.0.{n}", {"CPU": cpu, "GPU": gpus}) for n, cpu in enumerate(cpus, 1)]


def test_ranks_of_one_node_share_one_bundle_of_their_threads():
    two = placement(num_threads=4, num_ranks=2)
    assert two.bundles == [{"CPU": 8}]
    assert two.strategy == "STRICT_PACK"
    assert [two.bundle_index(rank) for rank in range(2)] == [0, 0]


def test_a_group_that_spans_nodes_has_a_bundle_of_gpus_on_each():
    sixteen = placement(num_ranks=16, num_nodes=2, device="cuda")
    assert sixteen.bundles == [{"GPU": 8}, {"GPU": 8}]
    assert sixteen.strategy == "STRICT_SPREAD"
    assert [sixteen.bundle_index(rank) for rank in range(16)] == [0] * 8 + [1] * 8


def test_nothing_is_missing_where_all_fits():
    assert find_shortfall([placement(num_ranks=2)], nodes(2)) is None
    assert find_shortfall([placement(num_ranks=4, num_nodes=2)], nodes(2, 1, 3)) is None


@pytest.mark.parametrize(
    ("wanted", "available", "message"),
    [
        (
            placement(num_ranks=2),
            nodes(1),
            "m needs 2 CPUs on one node (2 ranks of 1 CPU each); 10.0.0.1 has 1 CPU.",
        ),
        (
            placement(num_ranks=4, num_nodes=2),
            nodes(8, 1),
            "m needs 2 CPUs on each of 2 nodes (2 ranks of 1 CPU each); "
            "10.0.0.1 has 8 CPUs, 10.0.0.2 has 1 CPU.",
        ),
        (
            placement(num_ranks=8, device="cuda"),
            nodes(64),
            "m needs 8 GPUs on one node (8 ranks of 1 GPU each); 10.0.0.1 has 0 GPUs.",
        ),
        (placement(), [], "m needs 1 CPU on one node (1 rank of 1 CPU each); there is no node."),
    ],
)
def test_what_is_missing_is_said_with_the_node(wanted, available, message):
    assert find_shortfall([wanted], available) == message


def test_of_many_nodes_the_best_are_named():
    text = find_shortfall([placement(num_threads=100)], nodes(*range(1, 21)))
    assert text is not None
    assert "10.0.0.20 has 20 CPUs" in text
    assert "10.0.0.1 has" not in text
    assert "12 other nodes have no more" in text


def test_models_share_the_nodes_and_the_last_one_is_told_what_is_left():
    small, large = placement(num_ranks=2, model="small"), placement(num_threads=6, model="large")
    assert find_shortfall([small, large], nodes(8)) is None
    text = find_shortfall([small, large, small], nodes(8))
    assert text is not None
    assert text.startswith("small needs 2 CPUs")
    assert text.endswith("10.0.0.1 has 0 CPUs.")


def test_a_large_group_finds_the_node_that_small_ones_could_have_taken():
    wanted = [placement(model="small"), placement(num_threads=4, model="large")]
    for order, available in itertools.product(itertools.permutations(wanted), [(4, 1), (1, 4)]):
        assert find_shortfall(order, nodes(*available)) is None
