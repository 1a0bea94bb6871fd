"""RankGroup: the ranks that hold one copy of a model between them. For now it is one rank."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray.actor import ActorHandle
from ray.exceptions import RayError, RayTaskError
from ray.util.placement_group import PlacementGroup
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from gptoss_ray.config import ServedModelConfig
from gptoss_ray.errors import GptossError, UnavailableError
from gptoss_ray.ranks.engine_rank import EngineRank, RankStats

logger = logging.getLogger(__name__)

MAX_CONCURRENT_CALLS = 10_000
"""Calls a rank holds open at once: two for each live request, one for each ingress replica."""

RANK_NAMESPACE = "gptoss-ray-ranks"


@dataclass(frozen=True)
class Rank:
    """One rank: its actor, and the name (in `RANK_NAMESPACE`) by which other processes find it."""

    name: str
    actor: ActorHandle[Any]


class RankGroup:
    """Starts ranks in a placement group and picks one for each request.

    Args:
        config: The model that the group holds.
        placement_group: One bundle per node; ranks of a node share its bundle.
        owner: Unique name of the replica that owns the group.
    """

    def __init__(self, config: ServedModelConfig, placement_group: PlacementGroup, owner: str) -> None:
        self._config = config
        name = f"{config.name}#{owner}#0"
        actor_class: Any = ray.remote(EngineRank)
        actor = actor_class.options(
            name=name,
            namespace=RANK_NAMESPACE,
            num_cpus=config.engine.num_threads,
            max_concurrency=MAX_CONCURRENT_CALLS,
            scheduling_strategy=PlacementGroupSchedulingStrategy(
                placement_group=placement_group, placement_group_bundle_index=0
            ),
        ).remote(config)
        self._ranks = (Rank(name, actor),)

    async def load(self, suppressed_token_ids: Sequence[int]) -> None:
        """Load every rank and wait until each has completed a first step.

        Args:
            suppressed_token_ids: Ids that are never drawn.

        Raises:
            GptossError: A rank's own error, or UnavailableError after `startup_timeout_s`.
        """
        timeout_s = self._config.startup_timeout_s
        try:
            loads = (rank.actor.load.remote(suppressed_token_ids) for rank in self._ranks)
            await asyncio.wait_for(asyncio.gather(*loads), timeout_s)
        except asyncio.TimeoutError:
            raise UnavailableError(
                f"{self._config.name} did not load within startup_timeout_s = {timeout_s:g}; "
                "raise startup_timeout_s, or see the rank's log."
            ) from None
        except RayTaskError as error:
            if isinstance(error.cause, GptossError):
                raise error.cause from None
            raise

    def select(self) -> Rank:
        """Return the rank for a new request."""
        return self._ranks[0]

    async def ready(self) -> bool:
        """Return whether every rank completes its steps; a lost rank is not ready."""
        try:
            return all(await asyncio.gather(*(rank.actor.ready.remote() for rank in self._ranks)))
        except RayError:
            return False

    async def stats(self) -> list[RankStats]:
        """Return the counters of each rank."""
        return list(await asyncio.gather(*(rank.actor.stats.remote() for rank in self._ranks)))

    def shutdown(self) -> None:
        """Kill the ranks."""
        for rank in self._ranks:
            ray.kill(rank.actor)
