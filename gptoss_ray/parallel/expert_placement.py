"""Which ranks hold which experts, and which copy of an expert a rank's tokens go to.

A placement is data, computed once and told to every rank; everything here is a pure function of it, so
all ranks agree without talking. How one is chosen for an observed load is in `expert_balance.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import pairwise

from gptoss_ray.errors import ConfigError


@dataclass(frozen=True)
class LayerPlacement:
    """Where the experts of one layer are.

    Attributes:
        slots: For every rank the ids of the experts it holds, in the order of its slots. Every expert
            is on at least one rank, and on a rank at most once.
    """

    slots: tuple[tuple[int, ...], ...]

    def __post_init__(self) -> None:
        held = {expert for rank in self.slots for expert in rank}
        assert held == set(range(len(held))), "an expert is on no rank"
        assert all(len(set(rank)) == len(rank) for rank in self.slots), "a rank holds an expert twice"

    @property
    def num_ranks(self) -> int:
        """Ranks of the group."""
        return len(self.slots)

    @property
    def num_experts(self) -> int:
        """Different experts of the layer."""
        return len(self._ranks)

    def local_slots(self, rank: int) -> tuple[int, ...]:
        """Return the expert ids in the slots of `rank`."""
        return self.slots[rank]

    def ranks_of(self, expert: int) -> tuple[int, ...]:
        """Return the ranks that hold `expert`, ascending."""
        return self._ranks[expert]

    @cached_property
    def _ranks(self) -> tuple[tuple[int, ...], ...]:
        ranks: dict[int, list[int]] = {}
        for rank, experts in enumerate(self.slots):
            for expert in experts:
                ranks.setdefault(expert, []).append(rank)
        return tuple(tuple(ranks[expert]) for expert in range(len(ranks)))


def contiguous(num_experts: int, num_ranks: int) -> LayerPlacement:
    """Deal the experts out in order of id, each once; the first ranks hold one more where it is uneven.

    32 experts on 3 ranks are 11, 11 and 10.

    Raises:
        ConfigError: There are more ranks than experts.
    """
    if num_ranks > num_experts:
        raise ConfigError(
            f"num_ranks {num_ranks} is more than the {num_experts} experts of the model; "
            f"use at most {num_experts} ranks.",
            param="parallel.num_ranks",
        )
    smaller, num_larger = divmod(num_experts, num_ranks)
    starts = [rank * smaller + min(rank, num_larger) for rank in range(num_ranks + 1)]
    return LayerPlacement(tuple(tuple(range(start, end)) for start, end in pairwise(starts)))


@lru_cache(maxsize=4096)
def serving_ranks(copies: tuple[int, ...], hosts: tuple[str, ...]) -> tuple[int, ...]:
    """Choose the copy of one expert for the tokens of every rank: a fixed rule that knows no load.

    A rank with a copy uses it. Then ranks with a copy on their host choose among those, and last the
    others among all, in order of rank: each the copy that serves the fewest ranks so far (of equals
    the one on the lowest rank). So without hosts to respect, copies serve equally many ranks, give or
    take one.

    Args:
        copies: Ranks that hold the expert, ascending.
        hosts: Host of every rank.

    Returns:
        For every home rank the rank its tokens go to.
    """
    serving = {rank: rank for rank in copies}
    num_served = dict.fromkeys(copies, 1)
    copies_on = {host: [rank for rank in copies if hosts[rank] == host] for host in set(hosts)}
    others = [home for home in range(len(hosts)) if home not in serving]
    for home in sorted(others, key=lambda home: not copies_on[hosts[home]]):
        choice = min(copies_on[hosts[home]] or copies, key=lambda rank: num_served[rank])
        serving[home] = choice
        num_served[choice] += 1
    return tuple(serving[home] for home in range(len(hosts)))


def copy_table(placement: LayerPlacement, home_rank: int, hosts: Sequence[str]) -> list[int]:
    """Return for every expert [E] the rank to which the tokens of `home_rank` go (see `serving_ranks`)."""
    experts = range(placement.num_experts)
    return [serving_ranks(placement.ranks_of(expert), tuple(hosts))[home_rank] for expert in experts]
