"""Engines of one group that serve given requests: each in a thread of this process, or anywhere else."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from gptoss_ray.config import ParallelConfig, ServedModelConfig
from gptoss_ray.engine.engine import Engine
from gptoss_ray.generation import GenerationRequest
from gptoss_ray.parallel.group_link import GroupLink
from gptoss_ray.ranks.engine_loader import load_engine
from tests.support.engine_runs import Answer, small_config, take
from tests.support.thread_collectives import ThreadCollectives, ThreadLink, run_ranks

Arrival = tuple[int, int, GenerationRequest]
"""(step, rank, request)"""


@dataclass
class ServingRank:
    """One rank of a run: its engine and what it answered."""

    link: GroupLink | ThreadLink
    engine: Engine
    answers: dict[str, Answer] = field(default_factory=dict)


BeforeStep = Callable[[int, ServingRank], None]


def serve_rank(
    link: GroupLink | ThreadLink,
    config: ServedModelConfig,
    arrivals: Sequence[Arrival],
    before_step: BeforeStep = lambda step, rank: None,
) -> ServingRank:
    """Be one rank: take its requests in the steps at which they arrive, until no rank has work."""
    engine = load_engine(config, link.rank, link, (), lambda fraction: None)  # type: ignore[arg-type]
    rank = ServingRank(link, engine)
    last_arrival = max(step for step, _, _ in arrivals)
    step, runs = 0, True
    while runs or step <= last_arrival:
        for _, _, request in (arrival for arrival in arrivals if arrival[:2] == (step, link.rank)):
            engine.submit(request)
        before_step(step, rank)
        agreement = engine.agree()
        take(rank.answers, engine.run(agreement))
        step, runs = step + 1, agreement.runs
    return rank


def serve_in_threads(
    config: ServedModelConfig,
    arrivals: Sequence[Arrival],
    before_step: BeforeStep = lambda step, rank: None,
    *,
    is_streamed: bool = False,
) -> list[ServingRank]:
    """Be all ranks of a group; with `is_streamed` their all-to-alls are those of devices."""

    def work(collectives: ThreadCollectives) -> ServingRank:
        link = ThreadLink(collectives, is_streamed=is_streamed)
        return serve_rank(link, config, arrivals, before_step)

    return run_ranks(config.parallel.num_ranks, work)


def group_config(checkpoint: str, num_ranks: int, **parallel: object) -> ServedModelConfig:
    """A small engine on every rank of a group."""
    return ServedModelConfig(
        name="m",
        checkpoint=checkpoint,
        engine=small_config(),
        parallel=ParallelConfig(num_ranks=num_ranks, **parallel),  # type: ignore[arg-type]
    )
