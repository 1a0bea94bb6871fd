"""GroupLoad: how much a group has to do, as it is scaled by."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gptoss_ray.ranks.group_stats import GroupStats


@dataclass(frozen=True, slots=True)
class GroupLoad:
    """The load of one replica.

    Attributes:
        num_running: Sequences that ranks work on, or are about to.
        kv_use: Share of the KV blocks that they own, a mean over the ranks, 0 to 1.
        num_queued: Requests that wait for a rank.
        num_queued_tokens: Of them, prompts and expected outputs.
        first_token_s: From a request's arrival to its first token, for nine in ten of late; None where there
            were none.
    """

    num_running: float
    kv_use: float
    num_queued: float
    num_queued_tokens: float
    first_token_s: float | None = None

    @classmethod
    def of(cls, stats: GroupStats, turn_s: float | None) -> GroupLoad | None:
        """Put together what the ranks say and what waits before them; None where no rank says anything.

        Args:
            stats: Of the group.
            turn_s: How long requests waited for a rank of late.
        """
        ranks = stats.ranks
        if not ranks:
            return None
        at_ranks_s = [rank.first_token_s for rank in ranks if rank.first_token_s is not None]
        waits_s = [max(at_ranks_s, default=None), turn_s]
        known_s = [wait_s for wait_s in waits_s if wait_s is not None]
        return cls(
            num_running=sum(rank.engine.num_running + rank.engine.num_waiting for rank in ranks),
            kv_use=sum(rank.engine.kv_cache_usage for rank in ranks) / len(ranks),
            num_queued=stats.num_queued,
            num_queued_tokens=stats.num_queued_tokens,
            first_token_s=sum(known_s) if known_s else None,
        )
