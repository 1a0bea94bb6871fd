"""Measures each kernel alone at the shapes of a model, against what the machine can read and multiply.

A kernel's time cannot be below the bytes it must read over the reading ceiling, nor below its operations over
the arithmetic ceiling; `percent_of_ceiling` is the larger of the two over the time it took. Weights and keys
are cycled over more memory than caches hold. The cost of a call from Python is part of every figure.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

from gptoss_ray.bench import ceilings
from gptoss_ray.bench.ceilings import Ceilings
from gptoss_ray.bench.kernel_cases import (
    AnyKernels,
    KernelCase,
    KernelWork,
    MatrixFormats,
    attention_cases,
    dense_cases,
    expert_cases,
    small_cases,
)
from gptoss_ray.bench.timings import Timings, time_calls
from gptoss_ray.checkpoint.model_config import ModelConfig
from gptoss_ray.config import EngineConfig
from gptoss_ray.kernels.backend import make_kernels, select_backend

DENSE_FORMATS: tuple[MatrixFormats, ...] = (("bfloat16", "bfloat16"), ("int8", "bfloat16"), ("int8", "int8"))
# Experts are MXFP4, whatever the dense weights.
EXPERT_FORMATS = DENSE_FORMATS[1:]


@dataclass(frozen=True)
class KernelResult:
    """One kernel with one set of arguments."""

    work: KernelWork
    timings: Timings

    def row(self, limits: Ceilings) -> dict[str, float | int | str]:
        """Return the figures that are printed."""
        median_s = self.timings.median_s
        dots = limits.dots(self.work.activations)
        shortest_s = max(self.work.num_bytes / limits.read, self.work.num_flops / dots)
        return {
            "kernel": self.work.kernel,
            "weights": self.work.weights,
            "activations": self.work.activations,
            "rows": self.work.num_rows,
            "detail": self.work.detail,
            "median_us": round(1e6 * median_s, 1),
            "p95_us": round(1e6 * self.timings.p95_s, 1),
            "gb_per_s": round(self.work.num_bytes / median_s / 1e9, 2),
            "gflop_per_s": round(self.work.num_flops / median_s / 1e9, 1),
            "percent_of_ceiling": round(100 * shortest_s / median_s, 1),
        }


@dataclass(frozen=True)
class KernelReport:
    """All kernels of one run, and the ceilings before and after."""

    kernels: str
    num_threads: int
    before: Ceilings
    after: Ceilings
    results: tuple[KernelResult, ...]

    def ceiling_rows(self) -> list[dict[str, float | int | str]]:
        """Return the ceilings."""
        return [self.before.row("before"), self.after.row("after")]

    def rows(self) -> list[dict[str, float | int | str]]:
        """Return the kernels, held against the median of both measurements of the ceilings."""
        limits = ceilings.together((self.before, self.after))
        return [result.row(limits) for result in self.results]


@dataclass(frozen=True)
class KernelBench:
    """What to measure.

    Attributes:
        expert_rows: Rows of each of the experts that a token chooses.
        dense_rows: Rows of the dense matrices, of the gate, of sums over experts.
        contexts: Keys that one decoded row looks at.
        cycle_bytes: Weights and keys that calls go through in turn.
        read_bytes: Read at a time to measure the ceiling.
        min_s: Each case is repeated for at least so long.
        min_calls: And at least so often.
    """

    expert_rows: tuple[int, ...] = (1, 2, 4, 8, 16, 64)
    dense_rows: tuple[int, ...] = (1, 512)
    contexts: tuple[int, ...] = (1024, 8192, 32_768)
    cycle_bytes: int = 1 << 30
    read_bytes: int = ceilings.READ_BYTES
    min_s: float = 0.5
    min_calls: int = 5

    @classmethod
    def tiny(cls) -> KernelBench:
        """Return what shows in a second that everything runs; its figures mean nothing."""
        return cls((1, 4), (1, 4), (64,), cycle_bytes=1 << 20, read_bytes=1 << 24, min_s=0.0, min_calls=2)


def run(
    model: ModelConfig,
    num_threads: int,
    bench: KernelBench | None = None,
    note: Callable[[str], None] = lambda _: None,
) -> KernelReport:
    """Measure the native kernels on random weights of a model's shapes; `note` is told what comes next.

    Raises:
        ConfigError: There are no native kernels for the model; the message says why.
    """
    bench = bench or KernelBench()
    engine = EngineConfig(kernels="native", num_threads=num_threads)
    backend = select_backend(engine, model)
    note("ceilings of the machine")
    before = ceilings.measure(num_threads, num_bytes=bench.read_bytes)
    results = []

    def measure(case: KernelCase) -> None:
        work = case.work
        note(f"{work.kernel}, {work.weights} x {work.activations}, {work.num_rows} row(s) {work.detail}")
        results.append(
            KernelResult(work, time_calls(case.call, min_calls=bench.min_calls, min_s=bench.min_s))
        )

    def kernels_of(formats: MatrixFormats) -> AnyKernels:
        changes = {"dense_weights": formats[0], "activations": formats[1]}
        kernels = make_kernels(backend, engine.model_copy(update=changes), unpacks_mxfp4=False)
        return cast(AnyKernels, kernels)  # of a CPU

    for formats in EXPERT_FORMATS:
        for case in expert_cases(
            kernels_of(formats), model, formats[1], bench.expert_rows, bench.cycle_bytes
        ):
            measure(case)
    for formats in DENSE_FORMATS:
        for case in dense_cases(kernels_of(formats), model, formats, bench.dense_rows, bench.cycle_bytes):
            measure(case)
    kernels = kernels_of(("bfloat16", "bfloat16"))
    for case in attention_cases(kernels, model, bench.contexts, bench.cycle_bytes, engine.kv_block_size):
        measure(case)
    for case in small_cases(kernels, model, bench.dense_rows):
        measure(case)
    note("ceilings of the machine")
    after = ceilings.measure(num_threads, num_bytes=bench.read_bytes)
    return KernelReport(kernels.name, num_threads, before, after, tuple(results))
