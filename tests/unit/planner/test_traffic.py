from __future__ import annotations

from itertools import combinations

import pytest

from gptoss_ray.checkpoint.model_config import ModelConfig
from gptoss_ray.checkpoint.synthetic import tiny_config
from gptoss_ray.planner.hardware import ETHERNET, INFINIBAND, Link
from gptoss_ray.planner.traffic import (
    LINK_EFFICIENCY,
    Wiring,
    exact_bytes_per_token,
    expected_remote_ranks,
    layer_traffic,
)

FAST = Link("fast", 100e9, latency_s=1e-6)


@pytest.mark.parametrize("num_ranks", [1, 2, 3, 4, 8])
def test_expected_remote_ranks_are_the_mean_over_all_choices_and_homes(num_ranks):
    model = tiny_config(num_experts=8, num_experts_per_token=3)
    shares = [len(range(rank, 8, num_ranks)) for rank in range(num_ranks)]
    owners = [rank for rank, share in enumerate(shares) for _ in range(share)]
    counts = [
        len({owners[expert] for expert in chosen} - {home})
        for chosen in combinations(range(8), 3)
        for home in range(num_ranks)
    ]
    assert expected_remote_ranks(model, num_ranks) == pytest.approx(sum(counts) / len(counts))


def test_a_token_travels_once_a_rank_and_a_result_once_an_expert():
    model = ModelConfig.published("gpt-oss-120b")
    dispatched, combined = exact_bytes_per_token(model, 2)
    activations = 2880 * 2
    assert combined == 4 * 0.5 * activations
    # Nearly every token has an expert on the other rank, and then travels there once, with its four ids.
    assert 0.9 * 0.5 * 2 * (activations + 32) < dispatched < 0.5 * 2 * (activations + 32)


def test_small_steps_are_padded_and_larger_ones_exact():
    model = ModelConfig.published("gpt-oss-20b")
    result_bytes = 4 * 2880 * 2
    padded = layer_traffic(model, 4, num_tokens=3, max_padded_bytes=12 * result_bytes)
    assert (padded.mode, padded.num_collectives) == ("padded", 2)
    assert padded.combine_bytes == 3 * 3 * result_bytes
    exact = layer_traffic(model, 4, num_tokens=3, max_padded_bytes=12 * result_bytes - 1)
    assert (exact.mode, exact.num_collectives) == ("exact", 3)
    assert exact.num_bytes < padded.num_bytes


def test_a_rank_alone_sends_nothing():
    traffic = layer_traffic(ModelConfig.published("gpt-oss-20b"), 1, 100, 0)
    assert traffic.num_bytes == traffic.num_collectives == 0
    assert Wiring(1, 1, FAST, ETHERNET).exchange_s(1e9, 3) == 0


def test_within_a_node_the_network_does_not_matter():
    wiring = Wiring(8, 8, FAST, ETHERNET)
    assert wiring.exchange_s(7e9, 2) == pytest.approx(7e9 / (LINK_EFFICIENCY * 100e9) + 2e-6)


def test_across_nodes_the_slower_of_both_links_decides():
    across = 8 / 15 * 15e9 / (LINK_EFFICIENCY * 50e9)
    wiring = Wiring(16, 8, FAST, INFINIBAND)
    assert wiring.exchange_s(15e9, 1) == pytest.approx(across + INFINIBAND.latency_s)


def test_ranks_of_a_node_share_its_ethernet_but_not_its_infiniband():
    alone = Wiring(16, 1, FAST, ETHERNET).exchange_s(1e9, 0)
    together = Wiring(16, 8, FAST, ETHERNET).exchange_s(1e9, 0)
    assert together == pytest.approx(8 * (8 / 15) * alone)
