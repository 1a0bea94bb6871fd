"""RayRanks: the actors of a group: starting them, calling them, ending them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from typing import Any

import ray
from ray.actor import ActorHandle
from ray.exceptions import ActorDiedError, RayError, RayTaskError
from ray.util.placement_group import PlacementGroup
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from gptoss_ray.config import ServedModelConfig
from gptoss_ray.errors import GptossError, RankDiedError, UnavailableError
from gptoss_ray.ranks.engine_rank import EngineRank, LoadEngine
from gptoss_ray.ranks.rank_facts import RankFacts
from gptoss_ray.ranks.rank_placement import GroupPlacement
from gptoss_ray.ranks.recovery import RankId

MAX_CONCURRENT_CALLS = 10_000
"""Calls a rank holds open at once: two for each live request, one for each ingress replica."""

RANK_NAMESPACE = "gptoss-ray-ranks"


class RayRanks:
    """Implements `GroupRanks`.

    Args:
        config: The model that the group holds.
        placement_group: The bundles of `GroupPlacement.of(config)`.
        owner: Unique name of the replica that owns the group.
        load: Makes each rank's engine; see `EngineRank`.
        json_logs: Whether the ranks log as JSON.
    """

    def __init__(
        self,
        config: ServedModelConfig,
        placement_group: PlacementGroup,
        owner: str,
        load: LoadEngine | None,
        *,
        json_logs: bool = False,
    ) -> None:
        self._config = config
        self._placement_group = placement_group
        self._owner = owner
        self._load = load
        self._json_logs = json_logs
        self._suppressed_token_ids: Sequence[int] = ()
        self._actors = {
            rank: self._start_actor(rank) for rank in map(RankId, range(config.parallel.num_ranks))
        }

    def name(self, rank: RankId) -> str:
        """Return the name of a rank's actor in `RANK_NAMESPACE`."""
        return f"{self._config.name}#{self._owner}#{rank}"

    def actor(self, rank: RankId) -> ActorHandle[Any]:
        """Return a rank's actor, which may have died."""
        return self._actors[rank]

    async def ask(self, rank: RankId, method: str, *args: object) -> Any:
        """See `GroupRanks`; UnavailableError where the rank cannot be reached now."""
        try:
            return await getattr(self._actors[rank], method).remote(*args)
        except RayTaskError as error:
            if isinstance(error.cause, GptossError):
                raise error.cause from None
            raise
        except ActorDiedError as error:
            raise RankDiedError(
                f"rank {rank} of {self._config.name} died ({type(error).__name__}); its log has the "
                "cause. Where it has none, the machine may have run out of memory.",
                rank=rank,
            ) from error
        except RayError as error:
            raise UnavailableError(
                f"rank {rank} of {self._config.name} cannot be reached ({type(error).__name__})."
            ) from error

    async def load(self, suppressed_token_ids: Sequence[int]) -> None:
        """Have all ranks load; ids in `suppressed_token_ids` are never drawn, by replacements either."""
        self._suppressed_token_ids = suppressed_token_ids
        await asyncio.gather(*(self.ask(rank, "load", suppressed_token_ids) for rank in self._actors))

    async def start(self, rank: RankId) -> RankFacts:
        """See `GroupRanks`."""
        self._actors[rank] = self._start_actor(rank)
        facts: RankFacts = await self.ask(rank, "facts")
        await self.ask(rank, "load", self._suppressed_token_ids)
        await self.ask(rank, "stand_by")
        return facts

    def end(self, rank: RankId) -> None:
        """See `GroupRanks`; in a thread, because Ray may take its time."""
        if rank in self._actors:
            threading.Thread(
                target=ray.kill, args=(self._actors[rank],), name="end-rank", daemon=True
            ).start()

    def end_all(self) -> None:
        """End all ranks, from any thread."""
        for actor in list(self._actors.values()):
            ray.kill(actor)

    def _start_actor(self, rank: RankId) -> ActorHandle[Any]:
        placement = GroupPlacement.of(self._config)
        actor_class: Any = ray.remote(EngineRank)
        actor: ActorHandle[Any] = actor_class.options(
            name=self.name(rank),
            namespace=RANK_NAMESPACE,
            num_cpus=placement.rank_amounts.get("CPU", 0),
            num_gpus=placement.rank_amounts.get("GPU", 0),
            max_concurrency=MAX_CONCURRENT_CALLS,
            scheduling_strategy=PlacementGroupSchedulingStrategy(
                placement_group=self._placement_group,
                placement_group_bundle_index=placement.bundle_index(rank.number),
            ),
        ).remote(self._config, rank.number, self._load, json_logs=self._json_logs)
        return actor
