"""Measures what sharing the experts costs: one rank with all threads against ranks with one thread each.

All are processes of this machine that map the same packed weights. Arrangements take turns within a round, so
that both see the same machine; while one steps, the others sleep.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gptoss_ray.bench.engine_cases import DecodeCase, EngineUnderTest, engine_config
from gptoss_ray.bench.rank_processes import local_membership, meet, run_processes
from gptoss_ray.bench.watched_calls import watching_calls
from gptoss_ray.checkpoint.model_config import ModelConfig
from gptoss_ray.config import EngineConfig, ParallelConfig, ServedModelConfig
from gptoss_ray.errors import ConfigError
from gptoss_ray.parallel.all_to_all import AllToAllTokenDispatcher
from gptoss_ray.parallel.group_link import GroupLink
from gptoss_ray.parallel.membership import GroupMembership
from gptoss_ray.ranks.engine_loader import load_engine

_EXCHANGE = ("dispatch", "combine")


@dataclass(frozen=True)
class EPThroughputBench:
    """What to measure.

    Attributes:
        checkpoint: A folder.
        engine: Formats and packed weights; `num_threads` is shared out to the ranks.
        num_ranks: Of the group that is held against a rank alone.
        num_streams: That decode together, over all ranks.
        context: Tokens behind each stream.
        num_rounds: Repeats.
        num_steps: Decode steps of a round.
    """

    checkpoint: Path
    engine: EngineConfig
    num_ranks: int = 2
    num_streams: int = 16
    context: int = 128
    num_rounds: int = 3
    num_steps: int = 24

    def __post_init__(self) -> None:
        shared_out = {"num_streams": self.num_streams, "num_threads": self.engine.num_threads}
        for name, value in shared_out.items():
            if value % self.num_ranks:
                raise ConfigError(
                    f"{name} is {value}; it must be a multiple of the {self.num_ranks} ranks", param=name
                )


@dataclass(frozen=True)
class RankSteps:
    """The decode steps of one rank in one round: their seconds, and those of dispatch and combine in them."""

    seconds: tuple[float, ...]
    exchange_s: tuple[float, ...]


@dataclass(frozen=True)
class Arrangement:
    """So many ranks of so many threads, and the rounds of each rank."""

    num_ranks: int
    num_threads: int
    num_streams: int
    ranks: tuple[tuple[RankSteps, ...], ...]

    @property
    def tokens_per_s(self) -> float:
        """Of all streams: the median round. Ranks step together, so the first one's clock serves."""
        return statistics.median(
            self.num_streams * len(steps.seconds) / sum(steps.seconds) for steps in self.ranks[0]
        )

    @property
    def exchange_share(self) -> float:
        """Share of a step in dispatch and combine, waiting for the other ranks included: the mean rank's."""
        return statistics.mean(
            sum(steps.exchange_s) / sum(steps.seconds) for rounds in self.ranks for steps in rounds
        )

    def row(self, alone: Arrangement) -> dict[str, float | int | str]:
        """Return the figures that are printed."""
        return {
            "ranks": self.num_ranks,
            "threads_per_rank": self.num_threads,
            "streams": self.num_streams,
            "tokens_per_s": round(self.tokens_per_s, 2),
            "ratio": round(self.tokens_per_s / alone.tokens_per_s, 3),
            "dispatch_and_combine_percent": round(100 * self.exchange_share, 1),
        }


def run(bench: EPThroughputBench, note: Callable[[str], None] = lambda _: None) -> list[Arrangement]:
    """Measure a rank alone and a group, in turns; the rank alone comes first.

    Raises:
        CheckpointError: The checkpoint is missing or wrong.
        ConfigError: The engine cannot be had as it was asked for.
    """
    sizes = (1, bench.num_ranks)
    membership = local_membership(bench.num_ranks)
    places = [(size, rank) for size in sizes for rank in range(size)]
    note(f"{len(places)} processes load and take turns, {bench.num_rounds} round(s)")
    measured = run_processes(_measure, [(bench, sizes, place, membership) for place in places])
    rounds = dict(zip(places, measured, strict=True))
    return [
        Arrangement(
            num_ranks=size,
            num_threads=bench.engine.num_threads // size,
            num_streams=bench.num_streams,
            ranks=tuple(rounds[size, rank] for rank in range(size)),
        )
        for size in sizes
    ]


def _measure(
    bench: EPThroughputBench, sizes: tuple[int, ...], place: tuple[int, int], membership: GroupMembership
) -> tuple[RankSteps, ...]:
    """Be one rank of one arrangement."""
    size, rank = place
    case = DecodeCase(bench.num_streams // size, bench.context)
    under_test = _start(bench, case, size, rank, membership)
    rounds = []
    for _ in range(bench.num_rounds):
        for turn in sizes:
            meet()
            if turn == size:
                rounds.append(_steps(under_test, case, bench.num_steps))
    meet()
    return tuple(rounds)


def _start(
    bench: EPThroughputBench, case: DecodeCase, size: int, rank: int, membership: GroupMembership
) -> EngineUnderTest:
    model = ModelConfig.from_folder(bench.checkpoint)
    base = bench.engine.model_copy(update={"num_threads": bench.engine.num_threads // size})
    config = ServedModelConfig(
        name="bench",
        checkpoint=str(bench.checkpoint),
        engine=engine_config(base, model, [case], bench.num_steps),
        parallel=ParallelConfig(num_ranks=size, max_prefill_tokens_per_step=base.max_num_batched_tokens),
    )
    link = GroupLink(rank, config.parallel) if size > 1 else None
    engine = load_engine(config, rank, link, (), lambda _: None)
    if link is not None:
        link.join(membership)
    return EngineUnderTest(engine, model, seed=rank)


def _steps(under_test: EngineUnderTest, case: DecodeCase, num_steps: int) -> RankSteps:
    clock = _Clock()
    seconds, exchange_s = [], []
    with watching_calls(AllToAllTokenDispatcher, _EXCHANGE, clock.add):
        for step_s in under_test.steps(case, num_steps):
            seconds.append(step_s)
            exchange_s.append(clock.read())
    # What came before the first step counts with it.
    return RankSteps(tuple(seconds[1:]), tuple(exchange_s[1:]))


class _Clock:
    """The seconds inside calls."""

    def __init__(self) -> None:
        self._seconds = 0.0

    def add(self, _name: str, _args: tuple[Any, ...], seconds: float) -> None:
        """Count one call."""
        self._seconds += seconds

    def read(self) -> float:
        """Return the seconds since the last reading."""
        seconds, self._seconds = self._seconds, 0.0
        return seconds
