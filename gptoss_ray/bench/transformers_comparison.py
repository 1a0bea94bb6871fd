"""Our engine and transformers on one card in turn, ours, theirs, ours, theirs, … Never run on a GPU.

Both sides have the same weights, streams and contexts. Before the rounds, every way to use transformers is
tried for every case; the fastest takes part.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

from gptoss_ray.bench.engine_cases import DecodeCase
from gptoss_ray.bench.gpu_cases import Row
from gptoss_ray.bench.transformers_memory import ComparisonPlan
from gptoss_ray.bench.transformers_under_test import PeerUsage, PeerUsages, Trial, find_fastest

Note = Callable[[str], None]


class Side(Protocol):
    """What both sides do."""

    def prefill(self, num_tokens: int) -> float:
        """Return the seconds until the first token behind a prompt."""
        ...

    def steps(self, case: DecodeCase, num_steps: int) -> Iterable[float]:
        """Return the seconds of decode steps."""
        ...


class Peer(Side, Protocol):
    """The other side, which can be used in several ways."""

    def use(self, usage: PeerUsage) -> None:
        """Work that way from now on."""
        ...

    def free(self) -> None:
        """Give back the memory of what is over."""
        ...


@dataclass(frozen=True)
class ComparedStep:
    """One kind of step on both sides.

    Attributes:
        kind: "decode" or "prompt".
        num_streams: That take part.
        num_tokens: Behind each stream, or of the prompt.
        trial: Of the ways to use transformers.
        ours_s: Seconds of ours, round by round: of a step, or of a whole prompt.
        theirs_s: Of transformers in the same rounds; empty: no way worked.
    """

    kind: str
    num_streams: int
    num_tokens: int
    trial: Trial
    ours_s: list[float] = field(default_factory=list)
    theirs_s: list[float] = field(default_factory=list)

    @property
    def made(self) -> int:
        """Tokens that count as the output of a step: drawn, or read."""
        return self.num_streams if self.kind == "decode" else self.num_tokens

    def row(self) -> Row:
        """Return the figures that are printed: tokens a second, and ratios of the same round."""
        ratios = [theirs / ours for ours, theirs in zip(self.ours_s, self.theirs_s, strict=False)]
        return {
            "step": self.kind,
            "streams": self.num_streams,
            "tokens": self.num_tokens,
            "gptoss_ray": _spread([self.made / seconds for seconds in self.ours_s]),
            "transformers": _spread([self.made / seconds for seconds in self.theirs_s]),
            "ratio": _spread(ratios),
            "transformers_by": str(self.trial.fastest or "no way worked"),
        }

    def document(self) -> dict[str, object]:
        """Return every round's figures, to be written to a file."""
        return {
            "step": self.kind,
            "streams": self.num_streams,
            "tokens": self.num_tokens,
            "gptoss_ray_s": self.ours_s,
            "transformers_s": self.theirs_s,
            "transformers_by": str(self.trial.fastest or "no way worked"),
            "failed": {str(usage): why for usage, why in self.trial.failures.items()},
        }


@dataclass(frozen=True)
class Comparison:
    """What a comparison has found.

    Attributes:
        plan: What was to be compared.
        version: Of transformers.
        steps: Compared.
        peak_bytes: Most memory that torch held, for both sides.
    """

    plan: ComparisonPlan
    version: str
    steps: tuple[ComparedStep, ...]
    peak_bytes: int

    def tables(self) -> dict[str, list[Row]]:
        """Return everything that is printed."""
        peak: Row = {"peak_memory_gb": round(self.peak_bytes / 1e9, 2)}
        failed: list[Row] = [
            {
                "step": step.kind,
                "streams": step.num_streams,
                "tokens": step.num_tokens,
                "transformers_by": str(usage),
                "why": why,
            }
            for step in self.steps
            for usage, why in step.trial.failures.items()
        ]
        tables: dict[str, list[Row]] = {
            "transformers": [{"version": self.version, **self.plan.row(), **peak}],
            "beside transformers, tokens a second: median (least to most)": [s.row() for s in self.steps],
        }
        return {**tables, "ways to use transformers that failed": failed} if failed else tables


@dataclass(frozen=True)
class _Turns:
    """One kind of step, and how each side does it once.

    Attributes:
        kind: "decode" or "prompt".
        num_streams: That take part.
        num_tokens: Behind each stream, or of the prompt.
        ours: Returns seconds.
        theirs: Returns seconds, by the way that is in use.
    """

    kind: str
    num_streams: int
    num_tokens: int
    ours: Callable[[], float]
    theirs: Callable[[], float]

    def __str__(self) -> str:
        """Return what progress is called by."""
        return f"{self.kind}, {self.num_streams} stream(s) at {self.num_tokens}"


def compare(
    ours: Side,
    theirs: Peer,
    *,
    prompts: Sequence[int],
    cases: Sequence[DecodeCase],
    usages: PeerUsages,
    num_rounds: int,
    num_steps: int,
    note: Note = lambda _: None,
) -> tuple[ComparedStep, ...]:
    """Measure both sides in turn, round by round; the memory of transformers' turns is freed after each.

    Args:
        ours: An engine.
        theirs: transformers.
        prompts: Tokens of prompts, each read alone.
        cases: Streams that decode.
        usages: Ways to use transformers that are tried.
        num_rounds: Turns of each side.
        num_steps: Decode steps of a turn.
        note: Told of the progress.
    """
    pairs = []
    for turns in _all_turns(ours, theirs, prompts, cases, num_steps):
        trial = _try_usages(theirs, turns, usages, note)
        note(f"warming up: {turns}")
        turns.ours()
        pairs.append((turns, ComparedStep(turns.kind, turns.num_streams, turns.num_tokens, trial)))
    for number in range(num_rounds):
        for turns, step in pairs:
            note(f"round {number + 1}: {turns}")
            step.ours_s.append(turns.ours())
            if step.trial.fastest is not None:
                theirs.use(step.trial.fastest)
                step.theirs_s.append(turns.theirs())
                theirs.free()
    return tuple(step for _, step in pairs)


def _all_turns(
    ours: Side, theirs: Side, prompts: Sequence[int], cases: Sequence[DecodeCase], num_steps: int
) -> Iterator[_Turns]:
    for num_tokens in prompts:
        sides = (partial(side.prefill, num_tokens) for side in (ours, theirs))
        yield _Turns("prompt", 1, num_tokens, *sides)
    for case in cases:
        sides = (partial(_step_s, side, case, num_steps) for side in (ours, theirs))
        yield _Turns("decode", case.num_streams, case.context, *sides)


def _step_s(side: Side, case: DecodeCase, num_steps: int) -> float:
    return statistics.mean(side.steps(case, num_steps))


def _try_usages(theirs: Peer, turns: _Turns, usages: PeerUsages, note: Note) -> Trial:
    """Try each way for two turns, of which the first compiles what is compiled."""

    def measure(usage: PeerUsage) -> float:
        note(f"transformers by {usage}: {turns}")
        try:
            theirs.use(usage)
            return min(turns.theirs(), turns.theirs())
        finally:
            theirs.free()

    return find_fastest(usages.prompts if turns.kind == "prompt" else usages.decode, measure)


def _spread(values: Sequence[float]) -> str:
    """Return the median (least to most), or nothing of no values."""
    if not values:
        return ""
    median, least, most = (f"{value:.4g}" for value in (statistics.median(values), min(values), max(values)))
    return f"{median} ({least} to {most})"
