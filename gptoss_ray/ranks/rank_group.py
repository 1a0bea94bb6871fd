"""RankGroup: the ranks that hold one copy of a model between them."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from ray.actor import ActorHandle
from ray.exceptions import ActorDiedError, RayError
from ray.util.placement_group import PlacementGroup

from gptoss_ray.checkpoint.model_config import ModelConfig
from gptoss_ray.config import ServedModelConfig
from gptoss_ray.errors import GptossError, UnavailableError
from gptoss_ray.generation import GenerationRequest
from gptoss_ray.parallel.membership import GroupMembership
from gptoss_ray.ranks.admission import Admission, QueueLimits
from gptoss_ray.ranks.engine_rank import LoadEngine, RankStats
from gptoss_ray.ranks.group_keeper import GroupKeeper
from gptoss_ray.ranks.group_load import GroupLoad
from gptoss_ray.ranks.group_stats import GroupStats
from gptoss_ray.ranks.rank_facts import RankFacts, check_fingerprints, read_shape
from gptoss_ray.ranks.rank_memory import check_group_memory, describe_memory
from gptoss_ray.ranks.rank_room import RankRoom
from gptoss_ray.ranks.rank_selector import RankSelector
from gptoss_ray.ranks.ray_ranks import RayRanks
from gptoss_ray.ranks.recovery import FIRST_EPOCH, RankId, Stage
from gptoss_ray.ranks.wait_times import WaitTimes

logger = logging.getLogger(__name__)

GROUP_PREFIX = "gptoss-"
STATS_TIMEOUT_S = 1.0


@dataclass(frozen=True)
class Rank:
    """One rank: its number and incarnation, its actor, and the actor's name in `RANK_NAMESPACE`."""

    id: RankId
    name: str
    actor: ActorHandle[Any]


@dataclass
class Visit:
    """A request in the group; whoever sees its end notes how long its output was.

    Attributes:
        turn: Resolves to the number of its rank, once its turn has come.
    """

    turn: asyncio.Future[int]
    num_output_tokens: int | None = None


class RankGroup:
    """Starts ranks in a placement group, brings them into step and picks one for each request.

    A group of several has a keeper, which leads it on when ranks are lost and replaced.

    Args:
        config: The model that the group holds.
        placement_group: The bundles of `GroupPlacement.of(config)`.
        owner: Unique name of the replica that owns the group, of letters, digits, `-` and `_`.
        load: Makes each rank's engine; see `EngineRank`.
        json_logs: Whether the ranks log as JSON.
    """

    def __init__(
        self,
        config: ServedModelConfig,
        placement_group: PlacementGroup,
        owner: str,
        load: LoadEngine | None = None,
        *,
        json_logs: bool = False,
    ) -> None:
        self._config = config
        self._group_id = f"{GROUP_PREFIX}{owner}"
        self._ranks = RayRanks(config, placement_group, owner, load, json_logs=json_logs)
        self._first = tuple(map(RankId, range(config.parallel.num_ranks)))
        self._keeper: GroupKeeper | None = None
        self._keeping: asyncio.Task[None] | None = None
        self._hosts: dict[int, str] = {}
        self._has_failed = False
        self._selector: RankSelector | None = None
        self._admission: Admission | None = None
        self._turns = WaitTimes()

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
        self._hosts = {number: fact.address for number, fact in enumerate(facts)}
        model = await asyncio.to_thread(read_shape, self._config)
        plan = check_group_memory(self._config, model, facts)
        logger.info("memory_plan %s", describe_memory(self._config, plan))
        if self._config.verify_files:
            # Ranks of a node have the same files before them.
            first_ranks = {
                fact.host_id: rank for rank, fact in reversed(list(zip(self._first, facts, strict=True)))
            }
            await asyncio.gather(*(self._ranks.ask(rank, "verify_files") for rank in first_ranks.values()))
        await self._ranks.load(suppressed_token_ids)
        await self._ask_all("start", await self._first_membership(facts))
        self._open(model)
        if len(self._first) > 1:
            facts_of = dict(zip(self._first, facts, strict=True))
            self._keeper = GroupKeeper(
                self._config, model, self._ranks, self._group_id, facts_of, self._note_open_ranks
            )
            self._keeping = asyncio.create_task(self._keeper.run())

    def _open(self, model: ModelConfig) -> None:
        """Take requests from now on."""
        engine, num_ranks = self._config.engine, len(self._first)
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
        if len(self._first) == 1:
            return None
        port = await self._ranks.ask(self._first[0], "free_store_port", facts[0].address)
        hosts = tuple(fact.host_id for fact in facts)
        return GroupMembership(self._group_id, FIRST_EPOCH, hosts, facts[0].address, port)

    async def _ask_all(self, method: str, *args: object) -> list[Any]:
        """Call a method on every rank at once; the first failure is raised."""
        return await asyncio.gather(*(self._ranks.ask(rank, method, *args) for rank in self._first))

    @property
    def _open_ranks(self) -> Sequence[RankId]:
        """Ranks that may be given requests."""
        return self._keeper.open_ranks if self._keeper is not None else self._first

    @asynccontextmanager
    async def visit(self, request: GenerationRequest) -> AsyncIterator[Visit]:
        """Let a request in; it counts here until the block ends. `rank_of` says where it goes.

        Raises:
            OverloadedError: It would have to wait, and no more may.
            UnavailableError: The ranks are not loaded, or lost.
        """
        if self._admission is None:
            raise UnavailableError("The model is still loading; try again in a moment.")
        self._check_not_lost()
        visit = Visit(asyncio.get_running_loop().create_future())

        def admit(number: int) -> None:
            self._turns.end(request.request_id)
            if not visit.turn.done():  # else the caller has just left
                visit.turn.set_result(number)

        self._turns.begin(request.request_id)
        try:
            ticket = self._admission.enter(request, admit)
            try:
                yield visit
            finally:
                self._admission.leave(ticket, visit.num_output_tokens)
        finally:
            self._turns.drop(request.request_id)

    async def rank_of(self, visit: Visit) -> Rank:
        """Return the rank of a request, once its turn has come.

        Raises:
            UnavailableError: The ranks were lost meanwhile.
        """
        return self._rank(await visit.turn)

    def _rank(self, number: int) -> Rank:
        """Return the rank with a number; who waited until it was lost has not been lost with it."""
        for id_ in self._open_ranks:
            if id_.number == number:
                return Rank(id_, self._ranks.name(id_), self._ranks.actor(id_))
        self._check_not_lost()
        raise UnavailableError(f"Rank {number} was lost while the request waited for it; try again.")

    async def submit(self, rank: Rank, request: GenerationRequest) -> GptossError | None:
        """Hand a request to its rank; returns the refusal, if any.

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
        answers = await asyncio.gather(
            *(self._ranks.ask(rank, "abort_key", abort_key) for rank in self._open_ranks),
            return_exceptions=True,
        )
        return sum(answer for answer in answers if isinstance(answer, int))

    def _wake_all_but(self, rank: Rank) -> None:
        """Spare the first request after idleness the wait for a heartbeat; nobody waits for the call."""
        for other in self._open_ranks:
            if other != rank.id:
                self._ranks.actor(other).wake.remote()

    def note_error(self, rank: Rank, error: RayError) -> None:
        """Note what a call of a rank raised: one that has died is given no other request."""
        if self._keeper is None:
            self._has_failed = True
        elif isinstance(error, ActorDiedError):
            self._keeper.note_died(rank.id)

    def _check_not_lost(self) -> None:
        if self._has_failed or (self._keeper is not None and self._keeper.failure is not None):
            raise UnavailableError("The replica has lost its ranks and is being replaced; try again soon.")

    def _note_open_ranks(self, ranks: Collection[RankId]) -> None:
        """Give requests to these ranks from now on; those of lost ranks are about to leave by themselves."""
        if self._selector is not None and self._admission is not None:
            self._selector.open_only([rank.number for rank in ranks])
            self._admission.admit_waiting()

    async def ready(self) -> bool:
        """Return whether every rank completes its steps, or the group is about to have it so again."""
        if self._has_failed or (self._keeper is not None and self._keeper.failure is not None):
            return False
        if self._keeper is not None and not self._keeper.is_serving:
            return True  # requests wait at the survivors
        answers = await asyncio.gather(
            *(self._ranks.actor(rank).ready.remote() for rank in self._open_ranks), return_exceptions=True
        )
        is_kept = self._keeper is not None  # who is lost, the keeper finds out
        return all(is_kept if isinstance(answer, RayError) else answer is True for answer in answers)

    async def stats(self) -> GroupStats:
        """Return what there is to tell, and the counters of each rank that answers in time."""
        keeper, admission = self._keeper, self._admission
        return GroupStats(
            replica=self._group_id.removeprefix(GROUP_PREFIX),
            stage=Stage.SERVING.name.lower() if keeper is None else keeper.stage.name.lower(),
            epoch=FIRST_EPOCH if keeper is None else keeper.epoch,
            members=tuple(map(str, self._first if keeper is None else keeper.members)),
            hosts=self._hosts if keeper is None else keeper.hosts,
            ranks=tuple(await self._rank_stats()),
            num_queued=0 if admission is None else admission.num_queued,
            num_queued_tokens=0 if admission is None else admission.num_queued_tokens,
            healing_s=0.0 if keeper is None else keeper.healing_s,
            num_events={} if keeper is None else keeper.events.counts,
            events=() if keeper is None else keeper.events.latest,
        )

    async def _rank_stats(self) -> list[RankStats]:
        """Ask all ranks at once; one that is stopped must not hide the others."""
        asked = [asyncio.ensure_future(self._ranks.ask(rank, "stats")) for rank in self._open_ranks]
        if not asked:
            return []
        await asyncio.wait(asked, timeout=STATS_TIMEOUT_S)
        for call in asked:
            call.cancel()
        done = [call for call in asked if call.done() and not call.cancelled() and call.exception() is None]
        return [call.result() for call in done]

    def latest_ends(self) -> list[bytes]:
        """See `Admission.latest_ends`."""
        return [] if self._admission is None else self._admission.latest_ends

    async def current_load(self) -> GroupLoad | None:
        """Return how much there is to do; None where no rank answers."""
        return GroupLoad.of(await self.stats(), self._turns.recent_s())

    def shutdown(self) -> None:
        """Kill the ranks, from any thread."""
        if self._keeping is not None and not self._keeping.get_loop().is_closed():
            self._keeping.get_loop().call_soon_threadsafe(self._keeping.cancel)
        self._ranks.end_all()
