from __future__ import annotations

import json

import pytest

from gptoss_ray.bench.engine_cases import DecodeCase
from gptoss_ray.bench.gpu_cases import CHUNK_TOKENS, GpuBench, GpuStep, paper_steps, paper_tables
from gptoss_ray.bench.gpu_plot import plot
from gptoss_ray.checkpoint.model_config import ModelConfig
from gptoss_ray.errors import ConfigError
from gptoss_ray.planner.gpu_steps import Ceilings, decode_step
from gptoss_ray.planner.hardware import ACCELERATORS

SMALL = ModelConfig.published("gpt-oss-20b")
H200 = ACCELERATORS["h200"]
BENCH = GpuBench("gpt-oss-20b", SMALL)
CEILINGS = Ceilings(H200.memory_bytes_per_s, H200.flops)


def test_every_number_of_streams_is_measured_at_every_context_that_fits():
    bench = GpuBench("gpt-oss-20b", SMALL)
    assert len(bench.decode_cases()) == 12
    left_out = set(bench.decode_cases()) - set(bench.fitting_cases(H200.usable_bytes))
    assert left_out == {DecodeCase(256, 32_768)}


def test_kv_in_8_bits_lets_larger_cases_fit():
    wide, narrow = (
        GpuBench("gpt-oss-20b", SMALL, kv_cache_dtype=dtype).fitting_cases(ACCELERATORS["h100"].usable_bytes)
        for dtype in ("auto", "fp8")
    )
    assert set(narrow) - set(wide) == {DecodeCase(256, 8192), DecodeCase(64, 32_768)}


def test_the_engine_has_room_for_its_largest_case_and_no_prefix_cache():
    bench = GpuBench("gpt-oss-20b", SMALL, streams=(1, 64), contexts=(1024, 8192), prompts=(2048,))
    config = bench.engine_config(bench.decode_cases())
    assert config.max_num_sequences == 64
    assert not config.prefix_cache
    assert config.max_context >= 8192 + bench.num_steps
    memory = bench.memory(bench.decode_cases())
    assert memory.num_kv_blocks * config.kv_block_size >= 64 * (8192 + 128)
    assert memory.max_sequence_tokens >= 8192 + bench.num_steps


def test_a_long_prompt_costs_its_chunks_one_after_the_other():
    (whole,), (first, second) = (
        GpuStep.of_prompt(BENCH, number).cost for number in (CHUNK_TOKENS, 2 * CHUNK_TOKENS)
    )
    assert first == whole
    assert second.num_flops > first.num_flops
    assert second.num_launches == first.num_launches


def test_a_measured_step_is_told_as_a_share_of_the_roofline():
    cost = decode_step(SMALL, 8, 1024)
    bound_s = cost.roofline_s(CEILINGS)
    step = GpuStep.of_decode(BENCH, DecodeCase(8, 1024), (4 * bound_s, 2 * bound_s, bound_s))
    row = step.measured_row(CEILINGS)
    assert row["percent_of_roofline"] == 50.0
    assert row["tokens_per_s"] == round(8 / (2 * bound_s))


def test_a_measured_step_is_told_as_shares_of_what_a_copy_and_a_matmul_reach():
    step = GpuStep.of_prompt(BENCH, 2048, (0.04, 0.02, 0.01))
    (cost,) = step.cost
    row = step.measured_row(Ceilings(2 * cost.num_bytes / 0.02, 4 * cost.num_flops / 0.02))
    assert (row["percent_of_copy"], row["percent_of_matmul"]) == (50.0, 25.0)


def test_the_paper_says_what_does_not_fit():
    tables = paper_tables(GpuBench("gpt-oss-20b", SMALL), CEILINGS, H200.usable_bytes)
    steps, kernels = tables.values()
    assert [row["fits"] for row in steps].count("no") == 1
    assert len(steps) == 14
    assert sum(row["launches"] for row in kernels) == steps[0]["launches"]
    json.dumps(tables)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"streams": (), "prompts": ()}, "nothing to measure"),
        ({"contexts": (131_072,)}, "exceed the model's context"),
    ],
)
def test_what_cannot_be_measured_is_refused(changes, words):
    with pytest.raises(ConfigError, match=words):
        GpuBench("gpt-oss-20b", SMALL, **changes)


@pytest.mark.parametrize("has_run", [False, True])
def test_a_plot_tells_paper_from_measurement(tmp_path, has_run):
    bench = GpuBench("gpt-oss-20b", SMALL, streams=(1, 8), contexts=(1024,))
    steps = paper_steps(bench)
    if has_run:
        steps[:2] = [GpuStep.of_decode(bench, case, (0.002,)) for case in bench.decode_cases()]
    path = tmp_path / "plot.svg"
    plot("gpt-oss-20b", steps, CEILINGS, path)
    text = path.read_text()
    assert text.count('id="line2d_') > 4
    assert ("never run on a GPU" in text) or has_run
