"""RankGroup: the ranks that hold one copy of a model between them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import ray
from ray.actor import ActorHandle
from ray.exceptions import RayError, RayTaskError
from ray.util.placement_group import PlacementGroup
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from gptoss_ray.config import ServedModelConfig
from gptoss_ray.errors import GptossError, UnavailableError
from gptoss_ray.generation import GenerationRequest
from gptoss_ray.parallel.membership import GroupMembership
from gptoss_ray.ranks.engine_rank import EngineRank, LoadEngine, RankStats
from gptoss_ray.ranks.expert_rebalancer import ExpertRebalancer
from gptoss_ray.ranks.rank_facts import RankFacts, check_fingerprints, read_shape
from gptoss_ray.ranks.rank_memory import check_group_memory, describe_memory
from gptoss_ray.ranks.rank_placement import GroupPlacement
from gptoss_ray.ranks.rank_selector import RankSelector

logger = logging.getLogger(__name__)

MAX_CONCURRENT_CALLS = 10_000
"""Calls a rank holds open at once: two for each live request, one for each ingress replica."""

RANK_NAMESPACE = "gptoss-ray-ranks"

FIRST_EPOCH = 1


@dataclass(frozen=True)
class Rank:
    """One rank: its number, its actor, and the actor's name in `RANK_NAMESPACE`."""

    number: int
    name: str
    actor: ActorHandle[Any]


class RankGroup:
    """Starts ranks in a placement group, brings them into step and picks one for each request.

    Where they have spare slots, their experts follow the load.

    Args:
        config: The model that the group holds.
        placement_group: The bundles of `GroupPlacement.of(config)`.
        owner: Unique name of the replica that owns the group, of letters, digits, `-` and `_`.
        load: Makes each rank's engine; see `EngineRank`.
    """

    def __init__(
        self,
        config: ServedModelConfig,
        placement_group: PlacementGroup,
        owner: str,
        load: LoadEngine | None = None,
    ) -> None:
        self._config = config
        self._group_id = f"gptoss-{owner}"
        self._ranks = tuple(
            _start_rank(config, number, f"{config.name}#{owner}#{number}", placement_group, load)
            for number in range(config.parallel.num_ranks)
        )
        self._rebalancing: asyncio.Task[None] | None = None
        engine = config.engine
        self._selector = RankSelector(len(self._ranks), engine.kv_block_size, engine.max_num_sequences)

    async def load(self, suppressed_token_ids: Sequence[int]) -> None:
        """Load every rank, bring them into step and wait until each has completed a first step.

        Args:
            suppressed_token_ids: Ids that are never drawn.

        Raises:
            GptossError: A rank's own error, or UnavailableError after `startup_timeout_s` or where a rank's
                process died.
        """
        timeout_s = self._config.startup_timeout_s
        try:
            await asyncio.wait_for(self._load(suppressed_token_ids), timeout_s)
        except asyncio.TimeoutError:
            raise UnavailableError(
                f"{self._config.name} did not load within startup_timeout_s = {timeout_s:g}; "
                "raise startup_timeout_s, or see the rank's log."
            ) from None

    async def _load(self, suppressed_token_ids: Sequence[int]) -> None:
        facts: list[RankFacts] = await self._ask_all("facts")
        check_fingerprints(facts)
        model = await asyncio.to_thread(read_shape, self._config)
        plan = check_group_memory(self._config, model, facts)
        logger.info("memory_plan %s", describe_memory(self._config, plan))
        await self._ask_all("load", suppressed_token_ids)
        await self._ask_all("start", await self._first_membership(facts))
        if self._config.parallel.moves_experts:
            hosts = [fact.host_id for fact in facts]
            rebalancer = ExpertRebalancer(self._ask_number, model, self._config.parallel, hosts)
            self._rebalancing = asyncio.create_task(rebalancer.run())

    async def _first_membership(self, facts: Sequence[RankFacts]) -> GroupMembership | None:
        """Return who is in the group, with a meeting place on the node of rank 0; None for a lone rank."""
        if len(self._ranks) == 1:
            return None
        port = await self._ask(self._ranks[0], "free_store_port", facts[0].address)
        hosts = tuple(fact.host_id for fact in facts)
        return GroupMembership(self._group_id, FIRST_EPOCH, hosts, facts[0].address, port)

    async def _ask_all(self, method: str, *args: object) -> list[Any]:
        """Call a method on every rank at once; the first failure is raised."""
        return await asyncio.gather(*(self._ask(rank, method, *args) for rank in self._ranks))

    async def _ask(self, rank: Rank, method: str, *args: object) -> Any:
        try:
            return await getattr(rank.actor, method).remote(*args)
        except RayTaskError as error:
            if isinstance(error.cause, GptossError):
                raise error.cause from None
            raise
        except RayError as error:
            raise UnavailableError(
                f"rank {rank.number} of {self._config.name} died ({type(error).__name__}); its log has the "
                "cause. Where it has none, the machine may have run out of memory."
            ) from error

    async def _ask_number(self, number: int, method: str, *args: object) -> Any:
        return await self._ask(self._ranks[number], method, *args)

    @contextmanager
    def route(self, request: GenerationRequest) -> Iterator[Rank]:
        """Yield the rank for a request, which counts there until the block ends."""
        is_cached = self._config.engine.prefix_cache
        token_ids = request.prompt_token_ids + request.emitted_token_ids if is_cached else ()
        number = self._selector.acquire(token_ids, request.cache_salt)
        try:
            yield self._ranks[number]
        finally:
            self._selector.release(number)

    async def submit(self, rank: Rank, request: GenerationRequest) -> GptossError | None:
        """Hand a request to the rank that `route` yielded; returns the refusal, if any.

        Raises:
            RayError: The rank is lost.
        """
        submission = rank.actor.submit.remote(request)
        if self._selector.num_live == 1:
            self._wake_all_but(rank)
        refusal: GptossError | None = await submission
        return refusal

    async def abort(self, abort_key: str) -> int:
        """End the requests of a key on every rank; return how many there were."""
        return sum(await self._ask_all("abort_key", abort_key))

    def _wake_all_but(self, rank: Rank) -> None:
        """Spare the first request after idleness the wait for a heartbeat; nobody waits for the call."""
        for other in self._ranks:
            if other is not rank:
                other.actor.wake.remote()

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
        """Kill the ranks, from any thread."""
        for rank in self._ranks:
            ray.kill(rank.actor)
        if self._rebalancing is not None and not self._rebalancing.get_loop().is_closed():
            self._rebalancing.get_loop().call_soon_threadsafe(self._rebalancing.cancel)


def _start_rank(
    config: ServedModelConfig,
    number: int,
    name: str,
    placement_group: PlacementGroup,
    load: LoadEngine | None,
) -> Rank:
    placement = GroupPlacement.of(config)
    actor_class: Any = ray.remote(EngineRank)
    actor = actor_class.options(
        name=name,
        namespace=RANK_NAMESPACE,
        num_cpus=placement.rank_amounts.get("CPU", 0),
        num_gpus=placement.rank_amounts.get("GPU", 0),
        max_concurrency=MAX_CONCURRENT_CALLS,
        scheduling_strategy=PlacementGroupSchedulingStrategy(
            placement_group=placement_group, placement_group_bundle_index=placement.bundle_index(number)
        ),
    ).remote(config, number, load)
    return Rank(number, name, actor)
