"""What was measured on an engine, as tables and as JSON."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain

from gptoss_ray.bench.ceilings import Ceilings, together
from gptoss_ray.bench.engine_cases import DecodeCase
from gptoss_ray.bench.engine_start import EngineStart
from gptoss_ray.bench.machine import machine_row
from gptoss_ray.bench.process_memory import ResidentMemory
from gptoss_ray.bench.step_bytes import decode_step_bytes, prefill_flops
from gptoss_ray.bench.timings import Timings, percentile
from gptoss_ray.checkpoint.model_config import ModelConfig
from gptoss_ray.config import EngineConfig
from gptoss_ray.kernels.backend import Backend, numerics_fingerprint

Row = dict[str, float | int | str]


@dataclass(frozen=True)
class PrefillResult:
    """Seconds from a prompt's submission to its first token, round by round."""

    num_tokens: int
    seconds: tuple[float, ...]

    def rates(self) -> list[float]:
        """Return the tokens a second of each round."""
        return [self.num_tokens / seconds for seconds in self.seconds]


@dataclass(frozen=True)
class InsideStep:
    """What a decode step consists of, from steps whose native calls were watched.

    Attributes:
        outside_s: Seconds of a step that are not spent in native calls; median over steps.
        outside_share: The same as a share of the step.
        num_experts: That a layer's tokens chose together, on average over layers and steps.
    """

    outside_s: float
    outside_share: float
    num_experts: float


@dataclass(frozen=True)
class DecodeResult:
    """Seconds of the steps of a case, round by round; `inside` is None where kernels are not native."""

    case: DecodeCase
    rounds: tuple[Timings, ...]
    inside: InsideStep | None = None

    def rates(self) -> list[float]:
        """Return the tokens a second of each round, all streams together."""
        return [
            self.case.num_streams * len(timings.seconds) / sum(timings.seconds) for timings in self.rounds
        ]

    def steps(self) -> list[float]:
        """Return the seconds of every step of all rounds."""
        return list(chain.from_iterable(timings.seconds for timings in self.rounds))


@dataclass(frozen=True)
class EngineReport:
    """All figures of one run.

    Attributes:
        checkpoint: Its folder.
        model: Its shape.
        engine: As the engine ran.
        backend: The kernels that ran.
        starts: In the order in which they were made; the last is that of the engine that was measured.
        memory: Resident after all rounds, the KV cache included.
        ceilings: Before the first round and after each; none where kernels are not native.
        prefill: By length of prompt.
        decode: By streams and context.
        others_cpus: In each round, processors that others kept busy.
    """

    checkpoint: str
    model: ModelConfig
    engine: EngineConfig
    backend: Backend
    starts: tuple[EngineStart, ...]
    memory: ResidentMemory
    ceilings: tuple[Ceilings, ...]
    prefill: tuple[PrefillResult, ...]
    decode: tuple[DecodeResult, ...]
    others_cpus: tuple[float, ...]

    def tables(self) -> Mapping[str, list[Row]]:
        """Return what is printed: title → rows of equal keys."""
        tables: dict[str, list[Row]] = {
            "starts": [start.row() for start in self.starts],
            "memory after all rounds": [self._memory_row()],
            "ceilings": self._ceiling_rows(),
            "prompts": [self._prefill_row(result) for result in self.prefill],
            "decode": [self._decode_row(result) for result in self.decode],
            "inside a decode step": [
                self._inside_row(result.case, result.inside) for result in self.decode if result.inside
            ],
        }
        return {title: rows for title, rows in tables.items() if rows}

    def to_json(self) -> dict[str, object]:
        """Return everything, with the figure of each round beside its median."""
        return {
            "checkpoint": self.checkpoint,
            "num_layers": self.model.num_layers,
            "machine": machine_row(),
            "kernels": {"name": self.backend.name, "reason": self.backend.reason},
            "fingerprint": numerics_fingerprint(self.backend, self.engine),
            "engine": self.engine.model_dump(mode="json"),
            "context": "noise written to the KV cache, not read as a prompt",
            "others_cpus": [round(cpus, 3) for cpus in self.others_cpus],
            "starts": [start.row() for start in self.starts],
            "memory": self._memory_row(),
            "ceilings": self._ceiling_rows(),
            "prefill": [
                {**self._prefill_row(result), "rounds_tokens_per_s": _rounded(result.rates())}
                for result in self.prefill
            ],
            "decode": [
                {**self._decode_row(result), "rounds_tokens_per_s": _rounded(result.rates())}
                for result in self.decode
            ],
            "inside_step": [
                self._inside_row(result.case, result.inside) for result in self.decode if result.inside
            ],
        }

    def _memory_row(self) -> Row:
        return {
            "resident_gb": round(self.memory.total_bytes / 1e9, 2),
            "anonymous_gb": round(self.memory.anonymous_bytes / 1e9, 2),
            "file_gb": round(self.memory.file_bytes / 1e9, 2),
            "kv_cache_gb": round(self.engine.kv_cache_bytes / 1e9, 2),
        }

    def _ceiling_rows(self) -> list[Row]:
        moments = ["before", *(f"after round {number}" for number in range(1, len(self.ceilings)))]
        return [each.row(moment) for each, moment in zip(self.ceilings, moments, strict=False)]

    def _prefill_row(self, result: PrefillResult) -> Row:
        rates = result.rates()
        row: Row = {
            "tokens": result.num_tokens,
            "tokens_per_s": round(statistics.median(rates), 2),
            "worst": round(min(rates), 2),
            "best": round(max(rates), 2),
        }
        if self.ceilings:
            reached = prefill_flops(self.model, result.num_tokens) / statistics.median(result.seconds)
            row["gflop_per_s"] = round(reached / 1e9, 1)
            limit = together(self.ceilings).dots(self.engine.activations)
            row["percent_of_dots"] = round(100 * reached / limit, 1)
        return row

    def _decode_row(self, result: DecodeResult) -> Row:
        case, rates, steps = result.case, result.rates(), result.steps()
        median_s = statistics.median(steps)
        row: Row = {
            "streams": case.num_streams,
            "context": case.context,
            "tokens_per_s": round(statistics.median(rates), 2),
            "worst": round(min(rates), 2),
            "best": round(max(rates), 2),
            "p50_ms": round(1e3 * median_s, 2),
            "p95_ms": round(1e3 * percentile(steps, 0.95), 2),
        }
        if self.ceilings:
            num_experts = result.inside.num_experts if result.inside else None
            num_bytes = decode_step_bytes(
                self.model, self.engine.dense_weights, case.num_streams, case.context, num_experts
            )
            row["mb_per_token"] = round(num_bytes / case.num_streams / 1e6, 1)
            row["read_gb_per_s"] = round(num_bytes / median_s / 1e9, 2)
            row["percent_of_read"] = round(100 * num_bytes / median_s / together(self.ceilings).read, 1)
        return row

    def _inside_row(self, case: DecodeCase, inside: InsideStep) -> Row:
        return {
            "streams": case.num_streams,
            "context": case.context,
            "outside_kernels_ms": round(1e3 * inside.outside_s, 3),
            "outside_kernels_percent": round(100 * inside.outside_share, 2),
            "experts_per_layer": round(inside.num_experts, 2),
            "experts_expected": round(self.model.expected_experts(case.num_streams), 2),
        }


def _rounded(values: list[float]) -> list[float]:
    return [round(value, 2) for value in values]
