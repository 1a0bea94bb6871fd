"""Measures one small collective between processes of this machine: shared memory beside gloo."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

from gptoss_ray.bench.rank_processes import local_membership, run_processes
from gptoss_ray.bench.timings import percentile
from gptoss_ray.config import ParallelConfig
from gptoss_ray.parallel.collectives import Collectives
from gptoss_ray.parallel.group_link import form_collectives
from gptoss_ray.parallel.membership import GroupMembership

_NUM_WARM_UPS = 100
_STEP_VALUES = 8


@dataclass(frozen=True)
class CollectiveResult:
    """Seconds that calls of one collective took on rank 0."""

    wires: str
    collective: str
    seconds: tuple[float, ...]

    def row(self) -> dict[str, float | int | str]:
        """Return the figures that are printed."""
        return {
            "wires": self.wires,
            "collective": self.collective,
            "p50_us": round(statistics.median(self.seconds) * 1e6, 1),
            "p99_us": round(percentile(self.seconds, 0.99) * 1e6, 1),
        }


def run(
    world_size: int = 2, *, num_rows: int = 4, hidden_size: int = 2880, repeats: int = 2000
) -> list[CollectiveResult]:
    """Time a step's agreement, and an exchange in which every rank sends every other `num_rows` bf16 rows.

    Args:
        world_size: Ranks, each a process with one thread.
        num_rows: Rows from each rank to each other.
        hidden_size: Values of a row.
        repeats: Calls that are timed, at least two.
    """
    memberships = {wires: local_membership(world_size) for wires in ("shared memory", "gloo")}
    calls = [(rank, memberships, num_rows, hidden_size, repeats) for rank in range(world_size)]
    return run_processes(_measure, calls)[0]


def _measure(
    rank: int, memberships: dict[str, GroupMembership], num_rows: int, hidden_size: int, repeats: int
) -> list[CollectiveResult]:
    """Be one rank: form a group over each kind of wires in turn, and time its collectives."""
    results: list[CollectiveResult] = []
    for wires, membership in memberships.items():
        config = ParallelConfig(num_ranks=membership.world_size, shared_memory=wires == "shared memory")
        collectives = form_collectives(membership, rank, config)
        try:
            for name, call in _calls(collectives, num_rows, hidden_size):
                results.append(CollectiveResult(wires, name, _time(call, repeats)))
        finally:
            collectives.close()
    return results


def _calls(
    collectives: Collectives, num_rows: int, hidden_size: int
) -> Iterator[tuple[str, Callable[[], object]]]:
    """Yield what is timed, with its name."""
    values = list(range(_STEP_VALUES))
    yield f"maximum of {_STEP_VALUES} integers", lambda: collectives.all_reduce_max(values)
    counts = [num_rows * (peer != collectives.rank) for peer in range(collectives.world_size)]
    rows = torch.randn(sum(counts), hidden_size).to(torch.bfloat16)
    out = torch.empty_like(rows)
    name = f"exchange of {num_rows} x {hidden_size} bf16"
    yield name, lambda: collectives.all_to_all(rows, counts, counts, out)


def _time(call: Callable[[], object], repeats: int) -> tuple[float, ...]:
    """Return the seconds of every call after the first few."""
    seconds = []
    for number in range(_NUM_WARM_UPS + repeats):
        start = time.perf_counter()
        call()
        if number >= _NUM_WARM_UPS:
            seconds.append(time.perf_counter() - start)
    return tuple(seconds)
