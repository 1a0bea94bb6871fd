"""Serve the same requests with one rank and with a process to a rank, and compare the answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from gptoss_ray.config import ParallelConfig, ServedModelConfig
from gptoss_ray.generation import GenerationRequest
from gptoss_ray.parallel.group_link import GroupLink
from gptoss_ray.ranks.engine_loader import load_engine
from tests.support.engine_runs import Answer, run
from tests.support.group_cases import WIRES, Case
from tests.support.group_requests import texts
from tests.support.rank_processes import rank_processes
from tests.support.serving_ranks import Arrival, serve_rank


@dataclass(frozen=True)
class ServedRank:
    """What one rank did.

    Attributes:
        wire: Its collectives.
        answers: To the requests that came to it.
        num_steps: Steps it ran, with tokens of its own or without.
    """

    wire: str
    answers: dict[str, Answer]
    num_steps: int


def serve(link: GroupLink, config: ServedModelConfig, arrivals: Sequence[Arrival]) -> ServedRank:
    """Be one rank."""
    rank = serve_rank(link, config, arrivals)
    return ServedRank(type(link.collectives).__name__, rank.answers, rank.engine.stats().num_steps)


def answers_of_one(config: ServedModelConfig, requests: Sequence[GenerationRequest]) -> dict[str, object]:
    """Return what a rank that holds all experts answers, without collectives of any kind."""
    config = config.model_copy(update={"parallel": ParallelConfig()})
    return texts([run(load_engine(config, 0, None, (), lambda fraction: None), requests)])


def check_case(
    case: Case,
    config: ServedModelConfig,
    requests: Sequence[GenerationRequest],
    expected: dict[str, object],
    *,
    work: Callable[..., ServedRank] = serve,
) -> None:
    """Serve the requests as the case says, and compare every token and the bits of every logprob."""
    config = config.model_copy(update={"parallel": case.parallel_config()})
    ranks = rank_processes().run(
        work, config, case.arrivals(requests), hosts=case.hosts, config=config.parallel
    )
    assert {rank.wire for rank in ranks} == {WIRES[case.wire].kind}
    assert len({rank.num_steps for rank in ranks}) == 1
    assert texts([rank.answers for rank in ranks]) == expected
