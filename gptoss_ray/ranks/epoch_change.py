"""EpochChange: the order to a rank to get ready for the next epoch of its group."""

from __future__ import annotations

from dataclasses import dataclass

from gptoss_ray.parallel.expert_placement import LayerPlacement
from gptoss_ray.parallel.membership import GroupMembership


@dataclass(frozen=True)
class EpochChange:
    """Who is in the epoch, and which experts each of them has in it.

    Attributes:
        membership: Of the epoch.
        placements: Of the experts of every layer, over the ranks of the epoch.
        version: Of these experts; above all before.
        leaves: The present epoch is over: leave it now, whatever is under way in it.
    """

    membership: GroupMembership
    placements: tuple[LayerPlacement, ...]
    version: int
    leaves: bool
