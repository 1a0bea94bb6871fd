from __future__ import annotations

import math

import pytest

from gptoss_ray.bench.engine_cases import DecodeCase
from gptoss_ray.bench.gpu_cases import GpuBench
from gptoss_ray.bench.transformers_memory import peer_memory, plan_comparison
from gptoss_ray.checkpoint.layout import canonical_shapes
from gptoss_ray.checkpoint.model_config import ModelConfig
from gptoss_ray.errors import ConfigError
from gptoss_ray.planner.hardware import ACCELERATORS

SMALL, LARGE = (ModelConfig.published(name) for name in ("gpt-oss-20b", "gpt-oss-120b"))
H200 = ACCELERATORS["h200"].usable_bytes


def test_dequantised_weights_are_two_bytes_for_each_value_of_the_network():
    values = sum(map(math.prod, canonical_shapes(SMALL.replace(expert_format="unquantized")).values()))
    memory = peer_memory(SMALL, "bfloat16", [], [], 64)
    assert memory.weight_bytes == 2 * values
    assert 41.5e9 < memory.weight_bytes < 42e9


def test_packed_experts_take_a_third_of_it():
    memory = peer_memory(SMALL, "mxfp4", [], [], 64)
    assert 13.5e9 < memory.weight_bytes < 14e9


def test_a_cache_holds_what_the_streams_have_seen_by_the_end_and_window_layers_no_more_than_their_window():
    memory = peer_memory(SMALL, "bfloat16", [DecodeCase(8, 1000)], [], 24)
    full_layers = 8 * 12 * 1024
    window_layers = 8 * 12 * 128
    exact = (full_layers + window_layers) * 2 * 8 * 64 * 2
    assert memory.cache_bytes == int(exact * (1 + 2 / 24))


def test_an_h200_holds_the_20b_of_both_sides_and_leaves_out_what_it_cannot():
    plan = plan_comparison(GpuBench("gpt-oss-20b", SMALL), "bfloat16", H200)
    assert DecodeCase(64, 1024) in plan.cases
    assert DecodeCase(256, 32_768) in plan.left_out
    assert set(plan.cases).isdisjoint(plan.left_out)
    assert len(plan.cases) + len(plan.left_out) == 12
    assert plan.total_bytes <= H200
    assert plan.row()["planned_memory_gb"] == round(plan.total_bytes / 1e9, 2)


def test_all_cases_together_fit_and_not_only_each_alone():
    bench = GpuBench("gpt-oss-20b", SMALL, streams=(1, 64), contexts=(1024, 8192))
    enough = plan_comparison(bench, "bfloat16", 10**15).total_bytes
    assert plan_comparison(bench, "bfloat16", enough).left_out == ()
    assert plan_comparison(bench, "bfloat16", enough - 1).left_out == (DecodeCase(64, 8192),)


def test_what_does_not_fit_is_refused_with_the_sizes_and_what_would_help():
    bench = GpuBench("gpt-oss-120b", LARGE)
    with pytest.raises(ConfigError) as refused:
        plan_comparison(bench, "bfloat16", H200)
    assert refused.value.param == "transformers"
    for words in ("gpt-oss-120b", "bfloat16 experts: 233", "126.90 GB are free", "--layers", "mxfp4"):
        assert words in str(refused.value)


def test_fewer_layers_of_a_large_model_fit():
    bench = GpuBench("gpt-oss-120b, 6 layers", LARGE.replace(num_layers=6))
    assert DecodeCase(1, 1024) in plan_comparison(bench, "bfloat16", H200).cases


def test_a_comparison_of_nothing_is_refused():
    bench = GpuBench("gpt-oss-20b", SMALL, streams=(256,), contexts=(32_768,), prompts=())
    with pytest.raises(ConfigError, match="shorter contexts"):
        plan_comparison(bench, "bfloat16", H200)
