"""What an answer must not depend on: how many ranks, over which wires and how, and who is asked when."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from gptoss_ray.config import ParallelConfig
from gptoss_ray.generation import GenerationRequest
from tests.support.group_requests import PATTERNS
from tests.support.serving_ranks import Arrival


@dataclass(frozen=True)
class Wire:
    """What carries a group's exchanges.

    Attributes:
        hosts: Of the first four ranks.
        shared_memory: As configured.
        num_ranks: The group sizes that have this wire; a rank alone shares memory with nobody.
        kind: The collectives that a rank must get.
    """

    hosts: str
    shared_memory: bool
    num_ranks: Sequence[int]
    kind: str


WIRES = {
    "shared memory": Wire("AAAA", True, (2, 3, 4), "SharedMemoryCollectives"),
    "gloo": Wire("AAAA", False, (1, 2, 3, 4), "DeepspeedCollectives"),
    "two hosts": Wire("AABB", True, (3, 4), "MixedCollectives"),
}


class Case(NamedTuple):
    """One way to serve the same requests."""

    model: str
    num_ranks: int
    dispatch: str
    wire: str
    pattern: str

    @property
    def hosts(self) -> str:
        """Host of every rank."""
        return WIRES[self.wire].hosts[: self.num_ranks]

    def parallel_config(self) -> ParallelConfig:
        """Settings of the group: small prefills, so that prompts take several steps beside decoding."""
        return ParallelConfig(
            num_ranks=self.num_ranks,
            dispatch=self.dispatch,  # type: ignore[arg-type]
            shared_memory=WIRES[self.wire].shared_memory,
            max_prefill_tokens_per_step=16,
            max_prefill_delay_steps=2,
            collective_timeout_s=240,
        )

    def arrivals(self, requests: Sequence[GenerationRequest]) -> list[Arrival]:
        """Say in which step each request comes, and to which rank."""
        rng = random.Random(str(self))
        if self.pattern == "one rank":
            return [(0, self.num_ranks - 1, request) for request in requests]
        if self.pattern == "all ranks":
            return [(0, number % self.num_ranks, request) for number, request in enumerate(requests)]
        return [
            (rng.randrange(4 * len(requests)), rng.randrange(self.num_ranks), request) for request in requests
        ]

    def __str__(self) -> str:
        return "-".join(str(value).replace(" ", "_") for value in self)


def every_case(models: Sequence[str]) -> list[Case]:
    """Return all combinations that there are."""
    axes = itertools.product(models, range(1, 5), ("padded", "exact"), WIRES, PATTERNS)
    cases = itertools.starmap(Case, axes)
    return [case for case in cases if case.num_ranks in WIRES[case.wire].num_ranks]


def pairwise(cases: Sequence[Case]) -> list[Case]:
    """Return few of the cases that hold every two values which any case holds together (greedy)."""
    remaining = set().union(*map(_pairs, cases))
    chosen = []
    while remaining:
        best = max(cases, key=lambda case: len(_pairs(case) & remaining))
        chosen.append(best)
        remaining -= _pairs(best)
    return chosen


def _pairs(case: Case) -> set[object]:
    return set(itertools.combinations(enumerate(case), 2))
