from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch

from gptoss_ray.bench.ceilings import Ceilings, measure, together
from gptoss_ray.bench.kernel_cases import (
    KernelCase,
    KernelWork,
    attention_cases,
    dense_cases,
    expert_cases,
    small_cases,
)
from gptoss_ray.bench.kernels import KernelBench, KernelResult, run
from gptoss_ray.bench.timings import Timings
from gptoss_ray.checkpoint.synthetic import tiny_config
from gptoss_ray.errors import ConfigError
from gptoss_ray.kernels.reference_kernels import ReferenceKernels
from tests.support.backends import needs_native

MODEL = tiny_config()
CYCLE = 1 << 18


def all_cases() -> Iterator[KernelCase]:
    kernels = ReferenceKernels(torch.bfloat16, unpacks_mxfp4=True)
    yield from expert_cases(kernels, MODEL, "bfloat16", (1, 3), CYCLE)
    yield from dense_cases(kernels, MODEL, ("bfloat16", "bfloat16"), (1, 40), CYCLE)
    yield from attention_cases(kernels, MODEL, (64, 600), CYCLE, 16)
    yield from small_cases(kernels, MODEL, (1, 5))


def test_every_case_runs_however_often_it_is_called():
    for case in all_cases():
        for number in (0, 1, 7, 1000):
            result = case.call(number)
            assert result is not None, case.work


def test_the_work_of_a_case_is_what_its_shape_demands():
    works = {(case.work.kernel, case.work.num_rows, case.work.detail): case.work for case in all_cases()}
    qkv = works["norm and qkv", 40, "192 x 64"]
    assert (qkv.num_bytes, qkv.num_flops) == (2 * 192 * 64, 2 * 40 * 192 * 64)
    experts = works["experts", 3, "of each of 4"]
    assert experts.num_bytes == 4 * 3 * 64 * 64 * 17 / 32
    assert experts.num_flops == 4 * 3 * 2 * 3 * 64 * 64
    decode = works["attention, decode", 1, "600 keys"]
    assert decode.num_bytes == 600 * 2 * 2 * 16 * 2
    assert decode.num_flops == 4 * 600 * 8 * 16
    prompt = works["attention, prompt", 512, "512 keys"]
    assert prompt.num_flops == 4 * (512 * 513 // 2) * 8 * 16
    window = works["attention, decode", 1, "600 keys, window 16"]
    assert window.num_bytes == 16 * 2 * 2 * 16 * 2
    assert ("norm and unembedding", 16, "512 x 64") in works


def test_the_ceiling_that_binds_is_the_one_that_counts():
    limits = Ceilings((9e9, 10e9, 11e9), (100e9,), (200e9,))
    memory = KernelWork("experts", "mxfp4", "bfloat16", 1, "", num_bytes=1e7, num_flops=1e6)
    row = KernelResult(memory, Timings((0.002, 0.001, 0.004))).row(limits)
    assert (row["median_us"], row["gb_per_s"], row["percent_of_ceiling"]) == (2000.0, 5.0, 50.0)
    arithmetic = KernelWork("experts", "mxfp4", "bfloat16", 64, "", num_bytes=1e6, num_flops=1e8)
    row = KernelResult(arithmetic, Timings((0.002,))).row(limits)
    assert (row["gflop_per_s"], row["percent_of_ceiling"]) == (50.0, 50.0)
    coded = replace(arithmetic, activations="int8")
    assert KernelResult(coded, Timings((0.002,))).row(limits)["percent_of_ceiling"] == 25.0


def test_ceilings_taken_at_several_times_are_judged_together():
    both = together([Ceilings((1.0, 2.0), (5.0,), (8.0,)), Ceilings((9.0,), (7.0, 6.0), (9.0, 10.0))])
    assert (both.read, both.dots("bfloat16"), both.dots("int8")) == (2.0, 6.0, 9.0)


@needs_native
def test_a_machine_has_ceilings():
    limits = measure(2, num_bytes=1 << 24, repeats=2)
    rates = limits.read_bytes_per_s, limits.flops_per_s, limits.int8_ops_per_s
    assert all(len(repeats) == 2 and min(repeats) > 0 for repeats in rates)


@needs_native
def test_native_kernels_are_measured_in_every_format():
    notes: list[str] = []
    report = run(MODEL, 1, KernelBench.tiny(), notes.append)
    rows = report.rows()
    formats = {(row["weights"], row["activations"]) for row in rows if row["kernel"] != "combine"}
    assert formats >= {(weights, each) for weights in ("mxfp4", "int8") for each in ("bfloat16", "int8")}
    assert ("bfloat16", "bfloat16") in formats and ("bfloat16", "int8") not in formats
    assert all(row["median_us"] > 0 and row["percent_of_ceiling"] >= 0 for row in rows)
    assert [row["when"] for row in report.ceiling_rows()] == ["before", "after"]
    assert len(notes) == len(rows) + 2


def test_without_native_kernels_the_reason_is_given(monkeypatch):
    monkeypatch.setattr("gptoss_ray.kernels.backend.find_library", lambda: "they are not built")
    with pytest.raises(ConfigError, match="they are not built"):
        run(MODEL, 1)
