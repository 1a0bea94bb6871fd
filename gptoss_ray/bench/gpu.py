"""Measures one engine on one card: ceilings, parts of steps, decode steps, prompts. Never run on a GPU.

Weights are random and made on the card. Contexts are read as prompts, not filled in. A round measures every
case once; what is printed is the median of the rounds. Afterwards transformers may be measured beside.
"""

from __future__ import annotations

import gc
import statistics
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from gptoss_ray.bench import transformers_model
from gptoss_ray.bench.device_checkpoint import DeviceCheckpoint
from gptoss_ray.bench.engine_cases import DecodeCase, EngineUnderTest
from gptoss_ray.bench.gpu_cases import GpuBench, GpuStep, Row, paper_tables
from gptoss_ray.bench.gpu_parts import PartTime, measure_parts
from gptoss_ray.bench.gpu_timer import card_row, find_card, measure_ceilings, time_recorded
from gptoss_ray.bench.transformers_comparison import Comparison, compare
from gptoss_ray.bench.transformers_memory import ComparisonPlan, PeerExperts, plan_comparison
from gptoss_ray.bench.transformers_under_test import PeerUsages, TransformersUnderTest
from gptoss_ray.engine.device_executor import DeviceExecutor
from gptoss_ray.engine.device_stream import CudaStream
from gptoss_ray.engine.engine import Engine
from gptoss_ray.errors import ConfigError
from gptoss_ray.model.transformer import Transformer
from gptoss_ray.planner.gpu_steps import Ceilings

Note = Callable[[str], None]
"""Told what happens next, in a few words."""


@dataclass(frozen=True)
class GpuReport:
    """What one run has measured.

    Attributes:
        bench: What was asked for.
        card: The machine.
        ceilings: Measured before anything else.
        steps: That ran.
        parts: Of decode steps, by case.
        left_out: Cases that do not fit the card.
        peak_bytes: Most memory that torch held for our engine.
        planned_bytes: That were expected.
        comparison: With transformers; None: it was not asked for, or failed.
        failure: Why the comparison failed; empty: it did not.
    """

    bench: GpuBench
    card: Row
    ceilings: Ceilings
    steps: tuple[GpuStep, ...]
    parts: dict[DecodeCase, list[PartTime]]
    left_out: tuple[DecodeCase, ...]
    peak_bytes: int
    planned_bytes: int
    comparison: Comparison | None = None
    failure: str = ""

    def tables(self) -> dict[str, list[Row]]:
        """Return everything that is printed."""
        limits: Row = {
            "copy_tb_per_s": round(self.ceilings.bytes_per_s / 1e12, 3),
            "matmul_tflop_per_s": round(self.ceilings.flops / 1e12, 1),
            "peak_memory_gb": round(self.peak_bytes / 1e9, 2),
            "planned_memory_gb": round(self.planned_bytes / 1e9, 2),
            "cases_left_out": len(self.left_out),
        }
        tables: dict[str, list[Row]] = {"card": [self.card], "measured ceilings": [limits]}
        tables[f"{self.bench.title}: steps"] = [step.measured_row(self.ceilings) for step in self.steps]
        for case, parts in self.parts.items():
            title = f"parts of a step, {case.num_streams} stream(s) at {case.context}"
            tables[title] = [part.row(self.ceilings) for part in parts]
        return {**tables, **(self.comparison.tables() if self.comparison else {})}


def run(bench: GpuBench, note: Note = lambda _: None, *, peer: PeerExperts | None = None) -> GpuReport:
    """Measure everything; what the other side breaks is told, and costs none of our figures.

    Args:
        bench: What to measure.
        note: Told of the progress.
        peer: How transformers is to hold its experts, if it is to be measured beside.

    Raises:
        ConfigError: There is no card, no case fits it, or there is no transformers or no room for it.
    """
    device = find_card()
    free_bytes, _ = torch.cuda.mem_get_info(device)
    cases = bench.fitting_cases(free_bytes)
    planned = bench.memory(cases)
    if planned.total_bytes > free_bytes:
        raise ConfigError(f"{bench.shape} takes {planned.total_bytes} bytes, and {free_bytes} are free.")
    version = transformers_model.check_installed(peer) if peer else ""
    plan = plan_comparison(bench, peer, free_bytes) if peer else None
    note("ceilings of the card")
    ceilings = measure_ceilings(device)
    torch.cuda.empty_cache()
    note("random weights")
    checkpoint = DeviceCheckpoint(bench.model, device)
    transformer = Transformer.load(checkpoint, bench.engine_config(cases), device="cuda")
    steps, parts = _measure_engine(bench, transformer, cases, note)
    peak_bytes = torch.cuda.max_memory_reserved(device)
    left_out = tuple(case for case in bench.decode_cases() if case not in cases)
    report = GpuReport(
        bench, card_row(device), ceilings, steps, parts, left_out, peak_bytes, planned.total_bytes
    )
    if plan is None:
        return report
    try:
        comparison = _compare(bench, plan, version, transformer, checkpoint, note)
    except Exception as error:
        return replace(report, failure=f"{type(error).__name__}: {error}")
    return replace(report, comparison=comparison)


def _measure_engine(
    bench: GpuBench, transformer: Transformer, cases: list[DecodeCase], note: Note
) -> tuple[tuple[GpuStep, ...], dict[DecodeCase, list[PartTime]]]:
    """Measure an engine that has room for all cases, and end it."""
    note("recording graphs")
    engine = Engine(transformer, bench.engine_config(cases))
    steps = _measure_steps(bench, engine, cases, note)
    parts = _measure_parts(bench, engine, cases, note)
    engine.close()
    return steps, parts


def _compare(
    bench: GpuBench,
    plan: ComparisonPlan,
    version: str,
    transformer: Transformer,
    checkpoint: DeviceCheckpoint,
    note: Note,
) -> Comparison:
    """Measure an engine with room for the cases of `plan` and transformers in turn, of the same weights."""
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    device = find_card()
    note("recording graphs, transformers' weights")
    engine = Engine(transformer, bench.engine_config(plan.cases))
    network = transformers_model.build(checkpoint, device, experts=plan.experts)
    steps = compare(
        EngineUnderTest(engine, bench.model, fills_contexts=False),
        TransformersUnderTest(network),
        prompts=bench.prompts,
        cases=plan.cases,
        usages=PeerUsages.on(device, plan.experts, has_hub_kernels=transformers_model.has_hub_kernels()),
        num_rounds=bench.num_rounds,
        num_steps=bench.num_steps,
        note=note,
    )
    engine.close()
    return Comparison(plan, version, steps, torch.cuda.max_memory_reserved(device))


def _measure_steps(
    bench: GpuBench, engine: Engine, cases: list[DecodeCase], note: Note
) -> tuple[GpuStep, ...]:
    """Run all cases, round by round."""
    under_test = EngineUnderTest(engine, bench.model, fills_contexts=False)
    note("warming up")
    for num_tokens in bench.prompts:
        under_test.prefill(num_tokens)
    decode: dict[DecodeCase, list[float]] = {case: [] for case in cases}
    prompts: dict[int, list[float]] = {num_tokens: [] for num_tokens in bench.prompts}
    for number in range(bench.num_rounds):
        for num_tokens, seconds in prompts.items():
            note(f"round {number + 1}: prompt of {num_tokens} tokens")
            seconds.append(under_test.prefill(num_tokens))
        for case, seconds in decode.items():
            note(f"round {number + 1}: {case.num_streams} stream(s) at {case.context}")
            seconds.append(statistics.mean(under_test.steps(case, bench.num_steps)))
    return (
        *(GpuStep.of_decode(bench, case, tuple(seconds)) for case, seconds in decode.items()),
        *(GpuStep.of_prompt(bench, number, tuple(seconds)) for number, seconds in prompts.items()),
    )


def _measure_parts(
    bench: GpuBench, engine: Engine, cases: list[DecodeCase], note: Note
) -> dict[DecodeCase, list[PartTime]]:
    """Time the parts of each case on the engine's own network, cache and sampler."""
    executor = engine.executor
    assert isinstance(executor, DeviceExecutor)
    stream = executor.stream
    assert isinstance(stream, CudaStream)
    parts = {}
    for case in cases:
        note(f"parts of a step, {case.num_streams} stream(s) at {case.context}")
        parts[case] = measure_parts(
            executor.transformer,
            executor.kv_cache,
            executor.device_sampler,
            case,
            lambda work: time_recorded(stream, work),
            bench.held,
            by_blas=bench.by_blas,
        )
    return parts


def all_tables(report: GpuReport, usable_bytes: int) -> dict[str, list[Row]]:
    """Return what was measured, and beside it what was expected of the measured ceilings."""
    return {**report.tables(), **paper_tables(report.bench, report.ceilings, usable_bytes)}
