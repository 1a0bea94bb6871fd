"""GroupStats: what a replica tells of itself and its ranks when it is asked. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from gptoss_ray.ranks.group_events import GroupEvent

if TYPE_CHECKING:
    from gptoss_ray.ranks.engine_rank import RankStats


@dataclass(frozen=True, slots=True)
class GroupStats:
    """A replica at one moment; totals count from its start.

    Attributes:
        replica: Its id, unique in the cluster.
        stage: What its group is doing: serving, preparing, joining or given_up (`ranks/recovery.py`).
        epoch: The newest that it issued.
        members: Ranks of that epoch, by number and incarnation.
        hosts: Address of the node of each rank that has a number here.
        ranks: Of the ranks that take requests and have answered.
        num_queued: Requests that wait for a rank.
        num_queued_tokens: What they are thought to come to, prompts and outputs.
        healing_s: Seconds in which no epoch was granted, so that nothing was made.
        num_events: How often each kind of event has happened.
        events: The latest of them, the oldest first.
    """

    replica: str
    stage: str
    epoch: int
    members: tuple[str, ...]
    hosts: Mapping[int, str]
    ranks: tuple[RankStats, ...]
    num_queued: int = 0
    num_queued_tokens: int = 0
    healing_s: float = 0.0
    num_events: Mapping[str, int] = field(default_factory=dict)
    events: tuple[GroupEvent, ...] = ()
