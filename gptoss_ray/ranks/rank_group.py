"""RankGroup: the ranks that hold one copy of a model between them."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

import ray
from ray.actor import ActorHandle
from ray.exceptions import RayError, RayTaskError
from ray.util.placement_group import PlacementGroup
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from gptoss_ray.checkpoint.model_config import ModelConfig
from gptoss_ray.config import ServedModelConfig
from gptoss_ray.errors import GptossError, UnavailableError
from gptoss_ray.generation import GenerationRequest
from gptoss_ray.parallel.membership import GroupMembership
from gptoss_ray.ranks.admission import Admission, QueueLimits
from gptoss_ray.ranks.engine_rank import EngineRank, LoadEngine, RankStats
from gptoss_ray.ranks.expert_rebalancer import ExpertRebalancer
from gptoss_ray.ranks.rank_facts import RankFacts, check_fingerprints, read_shape
from gptoss_ray.ranks.rank_memory import check_group_memory, describe_memory
from gptoss_ray.ranks.rank_placement import GroupPlacement
from gptoss_ray.ranks.rank_room import RankRoom
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


@dataclass
class Routed:
    """A request on its way through a rank; whoever sees its end notes how long its output was."""

    rank: Rank
    num_output_tokens: int | None = None


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
        self._selector: RankSelector | None = None
        self._admission: Admission | None = None

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
        if self._config.verify_files:
            # Ranks of a node have the same files before them.
            first_ranks = {fact.host_id: number for number, fact in reversed(list(enumerate(facts)))}
            await asyncio.gather(*(self._ask_number(rank, "verify_files") for rank in first_ranks.values()))
        await self._ask_all("load", suppressed_token_ids)
        await self._ask_all("start", await self._first_membership(facts))
        self._open(model)
        if self._config.parallel.moves_experts:
            hosts = [fact.host_id for fact in facts]
            rebalancer = ExpertRebalancer(self._ask_number, model, self._config.parallel, hosts)
            self._rebalancing = asyncio.create_task(rebalancer.run())

    def _open(self, model: ModelConfig) -> None:
        """Take requests from now on."""
        engine, num_ranks = self._config.engine, len(self._ranks)
        self._selector = RankSelector(num_ranks, engine.kv_block_size, RankRoom.of(engine, model))
        self._admission = Admission(
            self._selector,
            QueueLimits(num_ranks * engine.max_queued_requests, num_ranks * engine.max_queued_tokens),
            block_size=engine.kv_block_size,
            caches_prefixes=engine.prefix_cache,
            clock=time.monotonic,
        )

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

    @asynccontextmanager
    async def route(self, request: GenerationRequest) -> AsyncIterator[Routed]:
        """Yield where the request goes, once its turn has come; it counts there until the block ends.

        Raises:
            OverloadedError: It would have to wait, and no more may.
            UnavailableError: The ranks are not loaded.
        """
        if self._admission is None:
            raise UnavailableError("The model is still loading; try again in a moment.")
        turn: asyncio.Future[int] = asyncio.get_running_loop().create_future()

        def admit(number: int) -> None:
            if not turn.done():  # else the caller has just left
                turn.set_result(number)

        ticket = self._admission.enter(request, admit)
        routed: Routed | None = None
        try:
            routed = Routed(self._ranks[await turn])
            yield routed
        finally:
            self._admission.leave(ticket, None if routed is None else routed.num_output_tokens)

    async def submit(self, rank: Rank, request: GenerationRequest) -> GptossError | None:
        """Hand a request to the rank that `route` yielded; returns the refusal, if any.

        Raises:
            RayError: The rank is lost.
        """
        submission = rank.actor.submit.remote(request)
        if self._selector is not None and self._selector.num_live == 1:
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
        stats = await asyncio.gather(*(rank.actor.stats.remote() for rank in self._ranks))
        num_queued = 0 if self._admission is None else self._admission.num_queued
        return [replace(each, num_queued=num_queued) for each in stats]

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
