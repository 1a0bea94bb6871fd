from __future__ import annotations

import dataclasses
import random

import pytest

from gptoss_ray.checkpoint.model_config import ModelConfig
from gptoss_ray.checkpoint.synthetic import tiny_config
from gptoss_ray.planner.hardware import ACCELERATORS, ETHERNET, INFINIBAND, Link
from gptoss_ray.planner.rates import COMPUTE_EFFICIENCY, MEMORY_EFFICIENCY, Group
from gptoss_ray.planner.traffic import Wiring
from gptoss_ray.planner.weights import AS_PUBLISHED

SMALL, LARGE = ModelConfig.published("gpt-oss-20b"), ModelConfig.published("gpt-oss-120b")
H200 = ACCELERATORS["h200"]


def group(model=SMALL, num_ranks=1, network=INFINIBAND, accelerator=H200, node_size=8) -> Group:
    wiring = Wiring.of(accelerator, network, num_ranks, node_size)
    return Group(model, AS_PUBLISHED, accelerator, wiring, max_padded_bytes=4 << 20)


def test_one_stream_of_the_20b_on_one_h200_is_bound_by_its_bytes_over_the_bandwidth():
    step = group().decode_step(1, context=0)
    assert step.memory_s == pytest.approx(3.71e9 / 4.8e12 / MEMORY_EFFICIENCY, rel=2e-3)
    assert step.compute_s < step.memory_s == step.total_s


def test_decoding_reads_the_kv_of_every_stream():
    near, far = (group().decode_step(8, context).memory_s for context in (1000, 9000))
    kv_bytes = 8 * 12 * 8000 * 2 * 8 * 64 * 2
    assert far - near == pytest.approx(kv_bytes / (MEMORY_EFFICIENCY * 4.8e12))


def test_a_long_prefill_is_bound_by_its_arithmetic():
    step = group().prefill_step(8192, context=0)
    # Two operations a parameter: 24 layers of attention, gate and four experts.
    parameters = 24 * (2880 * (2 * 4096 + 2 * 512) + 2880 * 32 + 4 * 3 * 2880 * 2880)
    assert step.total_s == pytest.approx(2 * 8192 * parameters / (COMPUTE_EFFICIENCY * 989.5e12))


def test_distinct_experts_are_the_mean_over_independent_tokens():
    model = tiny_config(num_experts=8, num_experts_per_token=2)
    rng = random.Random(0)
    trials = [len({e for _ in range(5) for e in rng.sample(range(8), 2)}) for _ in range(4000)]
    assert model.expected_experts(5) == pytest.approx(sum(trials) / len(trials), rel=0.02)
    assert model.expected_experts(1) == pytest.approx(2)
    assert model.expected_experts(10_000) == pytest.approx(8)


def test_ranks_of_a_group_share_the_reading_of_experts():
    alone, together = group(LARGE).decode_step(64, 0), group(LARGE, num_ranks=8).decode_step(8 * 64, 0)
    assert together.memory_s < alone.memory_s / 3
    assert together.exchange_s > alone.exchange_s == 0


def test_a_slower_network_only_lengthens_the_exchange():
    fast = group(LARGE, 16).decode_step(512, 4096)
    slow = group(LARGE, 16, network=ETHERNET).decode_step(512, 4096)
    assert slow.exchange_s > 3 * fast.exchange_s
    assert (slow.memory_s, slow.compute_s) == (fast.memory_s, fast.compute_s)


def test_every_layer_pays_the_latency_of_its_collectives_and_the_step_one_more():
    link = Link("far", float("inf"), latency_s=1e-3)
    distant = dataclasses.replace(H200, link=link)
    step = group(accelerator=distant, num_ranks=2).decode_step(2, 0)
    assert step.exchange_s == pytest.approx((24 * 2 + 1) * 1e-3)
