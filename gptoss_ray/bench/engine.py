"""Measures one engine in this process, without Ray or a server: starts, memory, prompts, decode steps.

The machine's ceilings are measured before, between and after the rounds, so that its drift is seen and
figures can be read as fractions of what it gave at that time. Every round measures every case once; what is
printed is the median of the rounds.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from gptoss_ray.bench import ceilings
from gptoss_ray.bench.ceilings import Ceilings
from gptoss_ray.bench.engine_cases import DecodeCase, EngineUnderTest, engine_config
from gptoss_ray.bench.engine_report import DecodeResult, EngineReport, InsideStep, PrefillResult
from gptoss_ray.bench.engine_start import EngineStart, forget_cached, start_here, start_in_child
from gptoss_ray.bench.machine import OtherLoad
from gptoss_ray.bench.native_calls import watching_native_calls
from gptoss_ray.bench.process_memory import resident_memory
from gptoss_ray.bench.timings import Timings
from gptoss_ray.checkpoint.model_config import ModelConfig
from gptoss_ray.config import EngineConfig, ServedModelConfig
from gptoss_ray.engine.engine import Engine
from gptoss_ray.errors import ConfigError

Note = Callable[[str], None]
"""Told what happens next, in a few words."""


@dataclass(frozen=True)
class EngineBench:
    """What to measure, and on what.

    Attributes:
        checkpoint: A folder.
        engine: Kernels, formats, threads and packed weights; KV memory is chosen to fit the cases.
        prefill_tokens: Lengths of prompts, each read alone.
        decode: Streams that decode together, with their contexts.
        num_rounds: Repeats of every case.
        num_steps: Decode steps of a case in a round.
        with_starts: Also start in processes of their own, with files that are not cached.
        read_bytes: Read at a time to measure the ceiling.
    """

    checkpoint: Path
    engine: EngineConfig
    prefill_tokens: tuple[int, ...] = (128, 512, 2048)
    decode: tuple[DecodeCase, ...] = (
        DecodeCase(1, 128),
        DecodeCase(4, 128),
        DecodeCase(16, 128),
        DecodeCase(1, 8192),
    )
    num_rounds: int = 3
    num_steps: int = 32
    with_starts: bool = True
    read_bytes: int = ceilings.READ_BYTES

    def __post_init__(self) -> None:
        for name in ("num_rounds", "num_steps"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be at least 1", param=name)
        if not self.prefill_tokens and not self.decode:
            raise ConfigError("there is nothing to measure; ask for prompts or for streams")

    def served_config(self, model: ModelConfig) -> ServedModelConfig:
        """Return the configuration of the engine under test."""
        prompts = [
            DecodeCase(1, num_tokens)
            for num_tokens in (*self.prefill_tokens, self.engine.max_num_batched_tokens)
        ]
        engine = engine_config(self.engine, model, [*prompts, *self.decode], self.num_steps)
        return ServedModelConfig(name="bench", checkpoint=str(self.checkpoint), engine=engine)


@dataclass
class _Rounds:
    """What the rounds have measured so far."""

    prefill_s: dict[int, list[float]]
    steps: dict[DecodeCase, list[Timings]]
    ceilings: list[Ceilings | None] = field(default_factory=list)
    others_cpus: list[float] = field(default_factory=list)


def run(bench: EngineBench, note: Note = lambda _: None) -> EngineReport:
    """Measure everything; `note` is told of the progress.

    Raises:
        CheckpointError: The checkpoint is missing or wrong.
        ConfigError: The engine cannot be had as it was asked for.
    """
    model = ModelConfig.from_folder(bench.checkpoint)
    config = bench.served_config(model)
    starts = _starts_in_children(bench, config, model, note) if bench.with_starts else []
    note("start in this process")
    engine, start = start_here(config, model, "files cached in memory" if bench.with_starts else "as it is")
    under_test = EngineUnderTest(engine, model)
    rounds = _Rounds(
        {num_tokens: [] for num_tokens in bench.prefill_tokens}, {case: [] for case in bench.decode}
    )
    note("warming up")
    under_test.prefill(bench.engine.max_num_batched_tokens)
    rounds.ceilings.append(_ceilings(bench, engine, note))
    for number in range(bench.num_rounds):
        _measure_round(bench, under_test, rounds, f"round {number + 1} of {bench.num_rounds}", note)
        rounds.ceilings.append(_ceilings(bench, engine, note))
    memory = resident_memory()
    inside = _look_inside(bench, under_test, note)
    transformer = engine.transformer
    found = [each for each in rounds.ceilings if each is not None]
    return EngineReport(
        checkpoint=str(bench.checkpoint),
        model=model,
        engine=config.engine,
        backend=transformer.backend,
        starts=(*starts, start),
        memory=memory,
        ceilings=tuple(found),
        prefill=tuple(
            PrefillResult(num_tokens, tuple(seconds)) for num_tokens, seconds in rounds.prefill_s.items()
        ),
        decode=tuple(
            DecodeResult(case, tuple(timings), inside.get(case)) for case, timings in rounds.steps.items()
        ),
        others_cpus=tuple(rounds.others_cpus),
    )


def _starts_in_children(
    bench: EngineBench, config: ServedModelConfig, model: ModelConfig, note: Note
) -> list[EngineStart]:
    """Start with files from disk: if that start packs the weights, once more with what it has packed."""
    packed = config.engine.packed_weights
    folders = [bench.checkpoint, *([Path(packed)] if packed else [])]
    starts = []
    for _ in range(2):
        num_files = _num_files(packed)
        where = "files from disk" if forget_cached(folders) else "files wherever they are"
        note(f"start in a process of its own, {where}")
        start = start_in_child(config, model, where)
        has_packed = _num_files(packed) > num_files
        if has_packed:
            start = EngineStart(
                f"packs the weights, {where}", start.load_s, start.first_token_s, start.memory
            )
        starts.append(start)
        if not has_packed:
            break
    return starts


def _num_files(packed: str | None) -> int:
    return sum(path.is_file() for path in Path(packed).rglob("*")) if packed else 0


def _ceilings(bench: EngineBench, engine: Engine, note: Note) -> Ceilings | None:
    """Measure the ceilings where the native library is the one under test."""
    if not engine.transformer.backend.is_native:
        return None
    note("ceilings of the machine")
    return ceilings.measure(bench.engine.num_threads, num_bytes=bench.read_bytes)


def _measure_round(
    bench: EngineBench, under_test: EngineUnderTest, rounds: _Rounds, name: str, note: Note
) -> None:
    others = OtherLoad()
    for num_tokens, seconds in rounds.prefill_s.items():
        note(f"{name}: prompt of {num_tokens} tokens")
        seconds.append(under_test.prefill(num_tokens))
    for case, timings in rounds.steps.items():
        note(f"{name}: decode, {case.num_streams} stream(s) at {case.context}")
        timings.append(under_test.decode(case, bench.num_steps))
    rounds.others_cpus.append(others.cpus())


def _look_inside(bench: EngineBench, under_test: EngineUnderTest, note: Note) -> dict[DecodeCase, InsideStep]:
    """Watch the native calls of some more steps of each case; those measured before were not watched."""
    library = under_test.engine.transformer.backend.library
    if library is None:
        return {}
    inside = {}
    with watching_native_calls(library) as calls:
        for case in bench.decode:
            note(f"inside a step, {case.num_streams} stream(s) at {case.context}")
            # What came before the first step counts with it, so that one is not looked at.
            steps = [(step_s, *calls.read()) for step_s in under_test.steps(case, bench.num_steps + 1)][1:]
            inside[case] = InsideStep(
                outside_s=statistics.median(step_s - kernels_s for step_s, kernels_s, _ in steps),
                outside_share=statistics.median(1 - kernels_s / step_s for step_s, kernels_s, _ in steps),
                num_experts=statistics.mean(num_experts for _, _, num_experts in steps),
            )
    return inside
