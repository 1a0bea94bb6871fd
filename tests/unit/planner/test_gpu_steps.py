from __future__ import annotations

import pytest

from gptoss_ray.bench.step_bytes import decode_step_bytes, prefill_flops
from gptoss_ray.checkpoint.model_config import ModelConfig
from gptoss_ray.config import EngineConfig
from gptoss_ray.planner import kv
from gptoss_ray.planner.gpu_steps import (
    BLAS_ROWS,
    IN_BFLOAT16,
    KERNEL_S,
    LAUNCH_S,
    Ceilings,
    KernelCost,
    StepCost,
    decode_step,
    prefill_step,
)
from gptoss_ray.planner.hardware import ACCELERATORS
from gptoss_ray.planner.rates import attention_flops
from gptoss_ray.planner.weights import WeightFormat

SMALL, LARGE = (ModelConfig.published(name) for name in ("gpt-oss-20b", "gpt-oss-120b"))
H200 = Ceilings(ACCELERATORS["h200"].memory_bytes_per_s, ACCELERATORS["h200"].flops)


@pytest.mark.parametrize(("model", "gigabytes"), [(SMALL, 3.71), (LARGE, 5.00)], ids=["20b", "120b"])
def test_one_stream_reads_the_known_bytes_and_what_fills_up_tiles(model, gigabytes):
    assert gigabytes < decode_step(model, 1, 1).num_bytes / 1e9 < 1.03 * gigabytes


@pytest.mark.parametrize("model", [SMALL, LARGE], ids=["20b", "120b"])
@pytest.mark.parametrize(("num_rows", "context"), [(1, 1024), (8, 8192), (64, 1024), (256, 1024)])
def test_weights_and_kv_are_nearly_all_that_a_decode_step_reads(model, num_rows, context):
    least = decode_step_bytes(model, "bfloat16", num_rows, context)
    assert least < decode_step(model, num_rows, context).num_bytes < 1.18 * least


def test_a_prompts_operations_are_those_of_its_matrices_and_its_attention():
    num_tokens = 2048
    expected = prefill_flops(SMALL, num_tokens) + num_tokens * attention_flops(SMALL, num_tokens // 2)
    assert prefill_step(SMALL, num_tokens).num_flops == pytest.approx(expected)


def test_fewer_experts_than_expected_are_fewer_bytes():
    few, expected = (decode_step(SMALL, 64, 1024, num_experts=number) for number in (4, None))
    expert = 3 * SMALL.hidden_size * SMALL.intermediate_size * 4.25 / 8
    assert expected.num_bytes - few.num_bytes == pytest.approx(24 * 27.99 * expert, rel=0.03)


def saved_bytes(num_rows, context, **engine):
    """Return what each kernel reads and writes less than with an engine in bfloat16, if it does."""
    held = WeightFormat.of_triton(EngineConfig(**engine))
    wide, narrow = (decode_step(SMALL, num_rows, context, each).kernels for each in (IN_BFLOAT16, held))
    saved = {a.name: a.num_bytes - b.num_bytes for a, b in zip(wide, narrow, strict=True)}
    return {name: num_bytes for name, num_bytes in saved.items() if num_bytes}


def test_kv_in_8_bits_saves_a_byte_of_each_value_that_attention_reads_and_qkv_writes():
    assert saved_bytes(64, 8192, kv_cache_dtype="fp8") == {
        "attention": 64 * kv.read_bytes(SMALL, 8192, 1),
        "qkv, rotation, KV write": 64 * 24 * 2 * 8 * 64,
    }


def test_dense_weights_in_8_bits_save_7_and_a_half_bits_of_each_that_is_read():
    saved_per_value = 7.5 / 8
    assert saved_bytes(1, 1024, dense_weights="int8") == {
        "qkv, rotation, KV write": 24 * 2944 * 5120 * saved_per_value,
        "attention output": 24 * 4096 * 2880 * saved_per_value,
        "unembedding": 2944 * 201_088 * saved_per_value,
    }


def test_products_of_cublas_are_read_once_more_in_a_launch_of_their_own():
    plain, by_blas = (decode_step(SMALL, 256, 1024, by_blas=choice).kernels for choice in (False, True))
    more = {
        a.name: (b.num_launches - a.num_launches, b.num_bytes - a.num_bytes)
        for a, b in zip(plain, by_blas, strict=True)
        if a != b
    }
    assert more == {
        "qkv, rotation, KV write": (24, 24 * 256 * 5120 * 4),
        "attention output": (24, 24 * 256 * 2880 * 4),
    }
    assert prefill_step(SMALL, 2048, by_blas=True).num_launches == prefill_step(SMALL, 2048).num_launches + 48
    few = BLAS_ROWS - 1
    assert decode_step(SMALL, few, 1024, by_blas=True) == decode_step(SMALL, few, 1024)


def test_a_kernel_takes_the_longer_of_its_bytes_and_its_operations_and_of_its_launches():
    ceilings = Ceilings(bytes_per_s=100.0, flops=1000.0)
    reading, computing, empty = (
        KernelCost("reads", 1, num_bytes=50.0),
        KernelCost("computes", 1, num_bytes=1.0, num_flops=700.0),
        KernelCost("nothing", 4),
    )
    assert [ceilings.least_s(cost) for cost in (reading, computing, empty)] == [0.5, 0.7, 0.0]
    step = StepCost((reading, computing, empty))
    assert step.roofline_s(ceilings) == pytest.approx(0.7)
    assert step.least_s(ceilings, launch_s=0.01) == pytest.approx(0.5 + 0.7 + 0.04)
    assert step.num_launches == 6


@pytest.mark.parametrize(
    ("model", "num_rows", "context", "target"),
    [(SMALL, 1, 1024, 900), (SMALL, 256, 1024, 20_000), (LARGE, 1, 1024, 500), (LARGE, 64, 1024, 4_500)],
)
def test_targets_on_one_h200_are_within_the_least_time_but_that_of_64_streams_of_the_120b(
    model, num_rows, context, target
):
    rate = num_rows / decode_step(model, num_rows, context).least_s(H200)
    assert rate > target
    assert (model, num_rows) != (LARGE, 64) or rate < 5_000


def test_what_a_graph_saves_is_most_where_there_is_one_stream():
    def gain(num_rows):
        step = decode_step(SMALL, num_rows, 1024)
        return step.least_s(H200, launch_s=LAUNCH_S) / step.least_s(H200, launch_s=KERNEL_S)

    assert gain(1) > 1.3 > gain(8) > gain(64) > 1


def test_launches_grow_with_layers_and_many_rows_are_grouped_by_expert_in_one_more():
    few, more, many = (decode_step(SMALL, rows, 1024).num_launches for rows in (4, 5, 256))
    assert more == many == few + SMALL.num_layers + 1
    per_layer = (decode_step(LARGE, 1, 1024).num_launches - few) / 12
    assert per_layer == int(per_layer) < 10
