from __future__ import annotations

import pytest

from gptoss_ray.bench.step_bytes import decode_step_bytes, expert_bytes, prefill_flops
from gptoss_ray.checkpoint.model_config import ModelConfig

CONFIG = ModelConfig.published("gpt-oss-20b")


def test_one_token_of_the_published_shape_reads_what_its_parts_weigh():
    attention = 24 * (5120 * 2880 + 2880 * 4096)
    unembedding = 201_088 * 2880
    experts = 24 * 4 * 3 * 2880 * 2880 * 17 / 32
    gates = 24 * 32 * 2880 * 4
    keys = 12 * (1000 + 128) * 2 * 8 * 64 * 2
    assert expert_bytes(CONFIG) == 3 * 2880 * 2880 * 17 / 32
    dense = attention + unembedding
    wanted = 2 * dense + experts + gates + keys + 2 * 2880
    assert decode_step_bytes(CONFIG, "bfloat16", 1, 1000) == pytest.approx(wanted, rel=1e-12)
    assert decode_step_bytes(CONFIG, "int8", 1, 1000) == pytest.approx(wanted - dense * 15 / 16, rel=1e-12)


def test_streams_share_the_experts_that_several_of_them_choose():
    assert CONFIG.expected_experts(1) == pytest.approx(4)
    assert 4 * 4 > CONFIG.expected_experts(4) > 4
    assert CONFIG.expected_experts(10_000) == pytest.approx(32)


def test_a_prompt_costs_two_operations_a_weight_and_token():
    active = 24 * (5120 * 2880 + 2880 * 4096 + 4 * 3 * 2880 * 2880)
    assert prefill_flops(CONFIG, 512) == 2 * (512 * active + 201_088 * 2880)
