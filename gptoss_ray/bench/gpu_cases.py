"""The steps that `gptoss-ray bench gpu` measures, and what each costs on paper."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from gptoss_ray.bench.engine_cases import DecodeCase, engine_config
from gptoss_ray.checkpoint.model_config import ModelConfig
from gptoss_ray.config import EngineConfig, ParallelConfig
from gptoss_ray.errors import ConfigError
from gptoss_ray.kernels.backend import check_dense_matmuls
from gptoss_ray.planner.gpu_steps import LAUNCH_S, Ceilings, StepCost, decode_step, prefill_step
from gptoss_ray.planner.memory import MemoryPlan, plan_memory
from gptoss_ray.planner.weights import WeightFormat

Row = dict[str, float | int | str]

CHUNK_TOKENS = 8192
"""Token budget of a step: longer prompts are read in chunks."""


@dataclass(frozen=True)
class GpuBench:
    """What to measure.

    Attributes:
        shape: Name of the model.
        model: Its shape.
        streams: That decode together.
        contexts: Tokens behind each stream; every number of streams is measured at every context that fits.
        prompts: Tokens of prompts, each read alone.
        num_rounds: Repeats of every case.
        num_steps: Decode steps of a case in a round.
        records_graphs: Whether decoding steps are replayed from graphs.
        kv_cache_dtype: Of the engine.
        dense_weights: Of the engine.
        dense_matmuls: Of the engine.
    """

    shape: str
    model: ModelConfig
    streams: tuple[int, ...] = (1, 8, 64, 256)
    contexts: tuple[int, ...] = (1024, 8192, 32_768)
    prompts: tuple[int, ...] = (2048, 16_384)
    num_rounds: int = 3
    num_steps: int = 64
    records_graphs: bool = True
    kv_cache_dtype: Literal["auto", "fp8"] = "auto"
    dense_weights: Literal["bfloat16", "int8"] = "bfloat16"
    dense_matmuls: Literal["batch_invariant", "cublas"] = "batch_invariant"

    def __post_init__(self) -> None:
        if not self.prompts and not (self.streams and self.contexts):
            raise ConfigError("there is nothing to measure; ask for prompts, or for streams and contexts")
        longest = max((*self.contexts, *self.prompts), default=0)
        if longest + self.num_steps >= self.model.max_context:
            raise ConfigError(
                f"{longest} tokens and {self.num_steps} steps exceed the model's context of "
                f"{self.model.max_context}; ask for shorter ones.",
                param="contexts",
            )
        check_dense_matmuls(self._engine)

    @property
    def by_blas(self) -> bool:
        """Whether it is measured in the mode that is not batch-invariant."""
        return self.dense_matmuls == "cublas"

    @property
    def title(self) -> str:
        """The shape, and what is not held in bfloat16 or not batch-invariant."""
        kv = ", KV in fp8" if self.kv_cache_dtype == "fp8" else ""
        dense = ", dense weights in int8" if self.dense_weights == "int8" else ""
        return self.shape + kv + dense + (", not batch-invariant (cuBLAS)" if self.by_blas else "")

    @property
    def held(self) -> WeightFormat:
        """How weights and KV are held."""
        return WeightFormat.of_triton(self._engine)

    @property
    def _engine(self) -> EngineConfig:
        """What does not depend on the cases."""
        return EngineConfig(
            max_num_batched_tokens=CHUNK_TOKENS,
            step_graphs=self.records_graphs,
            kv_cache_dtype=self.kv_cache_dtype,
            dense_weights=self.dense_weights,
            dense_matmuls=self.dense_matmuls,
        )

    def decode_cases(self) -> list[DecodeCase]:
        """Return all streams at all contexts."""
        return [DecodeCase(number, context) for context in self.contexts for number in self.streams]

    def fitting_cases(self, usable_bytes: int) -> list[DecodeCase]:
        """Return those that a card with so much memory can hold."""
        return [case for case in self.decode_cases() if self.memory([case]).total_bytes <= usable_bytes]

    def engine_config(self, cases: Sequence[DecodeCase]) -> EngineConfig:
        """Return a configuration with room for each case and each prompt alone."""
        prompts = [DecodeCase(1, num_tokens) for num_tokens in (*self.prompts, 1)]
        longest = max(case.context for case in (*prompts, *cases))
        config = engine_config(self._engine, self.model, [*prompts, *cases], self.num_steps)
        max_context = min(self.model.max_context, longest + 2 * self.num_steps + CHUNK_TOKENS)
        return config.model_copy(update={"max_context": max_context})

    def memory(self, cases: Sequence[DecodeCase]) -> MemoryPlan:
        """Return what an engine for these cases holds."""
        return plan_memory(
            self.model, self.engine_config(cases), ParallelConfig(device="cuda"), weight_format=self.held
        )


@dataclass(frozen=True)
class GpuStep:
    """One kind of step: its cost on paper and, where it ran, the seconds that it took.

    Attributes:
        kind: "decode" or "prompt".
        num_streams: That take part.
        num_tokens: Behind each stream, or of the prompt.
        cost: On paper.
        made: Tokens that count as its output: drawn, or read.
        seconds: Of the step, or of all steps of a prompt, round by round; empty: it has not run.
    """

    kind: str
    num_streams: int
    num_tokens: int
    cost: tuple[StepCost, ...]
    made: int
    seconds: tuple[float, ...] = ()

    @classmethod
    def of_decode(cls, bench: GpuBench, case: DecodeCase, seconds: tuple[float, ...] = ()) -> GpuStep:
        """Return a step in which all streams draw a token."""
        cost = decode_step(bench.model, case.num_streams, case.context, bench.held, by_blas=bench.by_blas)
        return cls("decode", case.num_streams, case.context, (cost,), case.num_streams, seconds)

    @classmethod
    def of_prompt(cls, bench: GpuBench, num_tokens: int, seconds: tuple[float, ...] = ()) -> GpuStep:
        """Return the steps that read a prompt."""
        return cls("prompt", 1, num_tokens, tuple(_chunk_costs(bench, num_tokens)), num_tokens, seconds)

    def paper_row(self, ceilings: Ceilings) -> Row:
        """Return what is known beforehand."""
        least_s = sum(cost.least_s(ceilings) for cost in self.cost)
        eager_s = sum(cost.least_s(ceilings, launch_s=LAUNCH_S) for cost in self.cost)
        return {
            "step": self.kind,
            "streams": self.num_streams,
            "tokens": self.num_tokens,
            "launches": sum(cost.num_launches for cost in self.cost),
            "gb": round(sum(cost.num_bytes for cost in self.cost) / 1e9, 2),
            "tflop": round(sum(cost.num_flops for cost in self.cost) / 1e12, 3),
            "roofline_ms": round(1e3 * self.roofline_s(ceilings), 3),
            "graph_ms": round(1e3 * least_s, 3),
            "eager_ms": round(1e3 * eager_s, 3),
            "tokens_per_s_at_most": round(self.made / least_s),
        }

    def measured_row(self, ceilings: Ceilings) -> Row:
        """Return what was measured, as shares of the ceilings that were measured and of their roofline."""
        median_s = statistics.median(self.seconds)
        bytes_per_s = sum(cost.num_bytes for cost in self.cost) / median_s
        flops = sum(cost.num_flops for cost in self.cost) / median_s
        return {
            "step": self.kind,
            "streams": self.num_streams,
            "tokens": self.num_tokens,
            "median_ms": round(1e3 * median_s, 3),
            "tokens_per_s": round(self.made / median_s),
            "percent_of_copy": round(100 * bytes_per_s / ceilings.bytes_per_s, 1),
            "percent_of_matmul": round(100 * flops / ceilings.flops, 1),
            "roofline_ms": round(1e3 * self.roofline_s(ceilings), 3),
            "percent_of_roofline": round(100 * self.roofline_s(ceilings) / median_s, 1),
        }

    def roofline_s(self, ceilings: Ceilings) -> float:
        """Return the bound."""
        return sum(cost.roofline_s(ceilings) for cost in self.cost)


def _chunk_costs(bench: GpuBench, num_tokens: int) -> Iterator[StepCost]:
    for start in range(0, num_tokens, CHUNK_TOKENS):
        chunk = min(CHUNK_TOKENS, num_tokens - start)
        yield prefill_step(bench.model, chunk, start, bench.held, by_blas=bench.by_blas)


def paper_steps(bench: GpuBench) -> list[GpuStep]:
    """Return all steps of a benchmark, none of which has run."""
    decode = [GpuStep.of_decode(bench, case) for case in bench.decode_cases()]
    return [*decode, *(GpuStep.of_prompt(bench, num_tokens) for num_tokens in bench.prompts)]


def paper_tables(bench: GpuBench, ceilings: Ceilings, usable_bytes: int) -> dict[str, list[Row]]:
    """Return the tables of what no card is needed for."""
    fitting = set(bench.fitting_cases(usable_bytes))
    rows = []
    for step in paper_steps(bench):
        case = DecodeCase(step.num_streams, step.num_tokens)
        memory = bench.memory([case] if step.kind == "decode" else [])
        fits = step.kind == "prompt" or case in fitting
        fields = {"memory_gb": round(memory.total_bytes / 1e9, 1), "fits": "yes" if fits else "no"}
        rows.append({**step.paper_row(ceilings), **fields})
    return {f"{bench.title}: steps on paper": rows, **kernel_table(bench, ceilings)}


def kernel_table(bench: GpuBench, ceilings: Ceilings) -> dict[str, list[Row]]:
    """Return the kernels of the first decode step."""
    if not bench.decode_cases():
        return {}
    case = bench.decode_cases()[0]
    kernels = GpuStep.of_decode(bench, case).cost[0].kernels
    rows: list[Row] = [
        {
            "kernel": kernel.name,
            "launches": kernel.num_launches,
            "mb": round(kernel.num_bytes / 1e6, 2),
            "gflop": round(kernel.num_flops / 1e9, 3),
            "roofline_us": round(1e6 * ceilings.least_s(kernel), 1),
        }
        for kernel in kernels
    ]
    return {f"kernels of a step, {case.num_streams} stream(s) at {case.context}": rows}
