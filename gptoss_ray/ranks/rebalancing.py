"""Whether a layer's experts are worth moving, for the load seen lately. Pure; imports no torch."""

from __future__ import annotations

from collections.abc import Sequence

from gptoss_ray.parallel.expert_balance import balanced
from gptoss_ray.parallel.expert_load import Loads, imbalance, rank_loads
from gptoss_ray.parallel.expert_placement import LayerPlacement

WORTH_A_SWAP = 0.9
"""The slowest rank sets the pace: experts move where its load falls to this share of the present one."""


def better_placement(
    load: Loads, present: LayerPlacement, num_spare: int, hosts: Sequence[str]
) -> LayerPlacement | None:
    """Return a placement that loads the ranks clearly more evenly than the present one; None: keep that.

    It takes up to a second for the widest layers, and next to nothing where the load is even already.

    Args:
        load: Tokens per home rank and expert [R, E], equally many homes as ranks.
        present: Where the layer's experts are.
        num_spare: Slots of each rank beyond its share of the experts.
        hosts: Host of every rank.
    """
    wanted = imbalance(rank_loads(present, load, hosts)) * WORTH_A_SWAP
    if wanted < 1:  # an even load is the best there is
        return None
    found = balanced(load, present.num_ranks, num_spare, hosts, current=present)
    return found if imbalance(rank_loads(found, load, hosts)) <= wanted else None
