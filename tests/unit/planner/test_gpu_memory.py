from __future__ import annotations

import pytest

from gptoss_ray.checkpoint.model_config import ModelConfig
from gptoss_ray.config import EngineConfig, ParallelConfig
from gptoss_ray.engine.device_executor import largest_shape
from gptoss_ray.engine.graph_shapes import block_counts, row_counts
from gptoss_ray.engine.step_executor import StepLimits
from gptoss_ray.engine.step_plan import MAX_SCORED_TOKENS
from gptoss_ray.planner import gpu_memory
from gptoss_ray.planner.hardware import ACCELERATORS
from gptoss_ray.planner.memory import check_fits, plan_memory
from gptoss_ray.planner.weights import WeightFormat

LARGE = ModelConfig.published("gpt-oss-120b")
ALIGNMENT_BYTES = 16 * 14


def planned(engine):
    weight_format = WeightFormat.of_triton(engine)
    return plan_memory(LARGE, engine, ParallelConfig(device="cuda"), weight_format=weight_format)


@pytest.mark.parametrize("num_sequences", [1, 64, 256])
@pytest.mark.parametrize("num_tokens", [16, 8192])
def test_planned_inputs_are_those_of_the_executor(num_sequences, num_tokens):
    engine = EngineConfig(max_num_sequences=num_sequences, max_num_batched_tokens=num_tokens)
    limits = StepLimits(num_sequences, num_tokens, LARGE.max_context, engine.max_drafted_tokens)
    shape = largest_shape(limits, engine.kv_block_size)
    assert 0 <= shape.num_bytes - gpu_memory.input_bytes(LARGE, engine) <= ALIGNMENT_BYTES
    assert gpu_memory.MAX_SCORED_TOKENS == MAX_SCORED_TOKENS


@pytest.mark.parametrize("num_sequences", [1, 8, 64, 100, 256, 1024, 4096])
def test_no_more_graphs_are_recorded_than_planned(num_sequences):
    num_graphs = len(row_counts(num_sequences)) * len(block_counts(131_072, 32))
    assert num_graphs <= gpu_memory.num_graphs(num_sequences)


def test_without_graphs_there_is_no_memory_for_them():
    with_graphs, without = (
        gpu_memory.lasting_bytes(LARGE, EngineConfig(step_graphs=has_graphs), ParallelConfig(device="cuda"))
        for has_graphs in (True, False)
    )
    assert with_graphs - without == gpu_memory.num_graphs(64) * gpu_memory.GRAPH_BYTES


def test_the_120b_fits_one_h200_with_kv_for_half_a_million_tokens():
    engine = EngineConfig(max_num_sequences=256, max_num_batched_tokens=8192, kv_cache_bytes=45 << 30)
    plan = planned(engine)
    check_fits(plan, ACCELERATORS["h200"].usable_bytes)
    assert 66e9 < plan.weight_bytes < 67e9
    assert plan.num_kv_blocks * engine.kv_block_size // 2 > 500_000
    assert plan.scratch_bytes == plan.grammar_bytes == 0
    assert 0 < plan.graph_bytes + plan.activation_bytes < 2e9
    assert plan.parts()["graphs and buffers of steps"] == plan.graph_bytes


def test_kv_in_8_bits_is_twice_the_blocks_of_the_same_memory_and_changes_nothing_else():
    wide, narrow = (
        planned(EngineConfig(kv_cache_bytes=3 << 30, kv_cache_dtype=dtype)) for dtype in ("auto", "fp8")
    )
    assert narrow.num_kv_blocks in (2 * wide.num_kv_blocks, 2 * wide.num_kv_blocks + 1)
    assert narrow.kv_cache_bytes <= 3 << 30
    assert narrow.fixed_bytes == wide.fixed_bytes


def test_a_group_works_on_rows_of_other_ranks_too():
    engine = EngineConfig(max_num_batched_tokens=8192)
    alone, among_eight = (
        gpu_memory.step_bytes(LARGE, engine, ParallelConfig(num_ranks=number, device="cuda"))
        for number in (1, 8)
    )
    assert among_eight > 3 * alone


def test_graphs_of_a_group_share_room_for_all_rows_that_could_come_in_a_decoding_step():
    engine = EngineConfig(max_num_sequences=32)
    alone, among_eight = (
        gpu_memory.lasting_bytes(
            LARGE, engine, ParallelConfig(num_ranks=num_ranks, device="cuda", dispatch="padded")
        )
        for num_ranks in (1, 8)
    )
    num_slots = 8 * 32 * LARGE.num_experts_per_token
    assert among_eight - alone == num_slots * (2 * LARGE.hidden_size + LARGE.intermediate_size) * 2


def test_a_padded_step_has_room_for_every_row_that_could_come():
    engine = EngineConfig(max_num_batched_tokens=1024)
    exact, padded = (
        gpu_memory.step_bytes(LARGE, engine, ParallelConfig(num_ranks=8, device="cuda", dispatch=dispatch))
        for dispatch in ("exact", "padded")
    )
    num_slots = 8 * 1024 * LARGE.num_experts_per_token
    assert padded > num_slots * (2 * LARGE.hidden_size + LARGE.intermediate_size) * 2 > exact
