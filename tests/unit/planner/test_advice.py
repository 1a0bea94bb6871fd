from __future__ import annotations

import dataclasses

import pytest

from gptoss_ray.checkpoint.model_config import ModelConfig
from gptoss_ray.errors import ConfigError
from gptoss_ray.planner.advice import Cluster, Layout, Load, best_layout, compare_layouts
from gptoss_ray.planner.hardware import ACCELERATORS, ETHERNET, INFINIBAND

SMALL, LARGE = ModelConfig.published("gpt-oss-20b"), ModelConfig.published("gpt-oss-120b")
H100 = ACCELERATORS["h100"]


def compare(model, num_devices, streams=64, context=4096, network=INFINIBAND, device=H100) -> list[Layout]:
    cluster = Cluster(device, num_devices, 8, network)
    return compare_layouts(model, cluster, Load(streams, context, 2048))


def test_layouts_are_the_even_ways_to_use_all_devices():
    sizes = [(layout.num_groups, layout.num_ranks) for layout in compare(LARGE, 16)]
    assert sizes == [(16, 1), (8, 2), (4, 4), (2, 8), (1, 16)]


def test_no_rank_is_without_an_expert():
    assert [layout.num_ranks for layout in compare(SMALL, 64)] == [1, 2, 4, 8, 16, 32]


def test_the_120b_fits_one_80_gb_card_and_one_device_is_one_replica():
    (only,) = compare(LARGE, 1)
    assert only.prediction is not None
    assert only.prediction.kv_tokens > 50_000
    assert best_layout([only]) is only


def test_a_small_model_with_few_streams_is_best_replicated():
    assert best_layout(compare(SMALL, 8, streams=8)).num_ranks == 1


def test_many_streams_of_the_120b_are_best_shared_out_within_a_node():
    layouts = compare(LARGE, 16, streams=2048, network=ETHERNET)
    best = best_layout(layouts)
    assert 1 < best.num_ranks <= 8
    assert best.prediction.num_streams > layouts[0].prediction.num_streams
    assert layouts[-1].prediction.exchange_share > 0.5


def test_replicas_that_cannot_hold_the_model_are_shown_with_the_reason():
    half = dataclasses.replace(H100, memory_bytes=H100.memory_bytes // 2)
    layouts = compare(LARGE, 4, device=half)
    assert layouts[0].prediction is None
    assert "experts of the rank 62.43 GB" in layouts[0].problem
    assert best_layout(layouts).num_ranks > 1


def test_a_stream_longer_than_the_kv_cache_is_a_reason_too():
    layouts = compare(LARGE, 2, context=131072)
    assert "a stream takes 4101" in layouts[0].problem
    assert layouts[1].prediction is not None


def test_nothing_is_best_where_nothing_fits():
    tiny = dataclasses.replace(H100, memory_bytes=10**9)
    assert best_layout(compare(LARGE, 2, device=tiny)) is None


def test_a_larger_group_must_be_worth_it():
    layouts = compare(LARGE, 8)
    rates = [layout.prediction.decode_tokens_per_s for layout in layouts]

    def scaled(layout: Layout, rate: float) -> Layout:
        return dataclasses.replace(
            layout, prediction=dataclasses.replace(layout.prediction, decode_tokens_per_s=rate)
        )

    near = [scaled(layout, rates[0] * (1 + 0.01 * at)) for at, layout in enumerate(layouts[:2])]
    assert best_layout(near) is near[0]
    far = [near[0], scaled(layouts[1], rates[0] * 1.03)]
    assert best_layout(far) is far[1]


def test_ranks_unpack_their_experts_only_where_told_and_where_they_fit():
    cluster = Cluster(ACCELERATORS["b200"], 2, 8, INFINIBAND, is_cpu=True)
    unpacked, halved = compare_layouts(SMALL, cluster, Load(8, 4096, 512))
    assert unpacked.prediction.memory.expert_bytes > 38e9
    assert halved.prediction.memory.expert_bytes == unpacked.prediction.memory.expert_bytes / 2
    packed, _ = compare_layouts(SMALL, dataclasses.replace(cluster, is_cpu=False), Load(8, 4096, 512))
    assert packed.prediction.memory.expert_bytes < 11e9
    assert packed.prediction.decode_tokens_per_s > unpacked.prediction.decode_tokens_per_s


def test_an_uneven_cluster_and_a_context_beyond_the_model_are_refused():
    with pytest.raises(ConfigError, match="12 devices do not fill nodes of 8"):
        compare(SMALL, 12)
    with pytest.raises(ConfigError, match="the model's is 131072"):
        compare(SMALL, 1, context=131073)
