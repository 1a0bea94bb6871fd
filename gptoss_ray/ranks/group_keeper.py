"""GroupKeeper: carries out what `recovery.py` decides: leads a group of ranks from epoch to epoch."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any, Protocol

from gptoss_ray.checkpoint.model_config import ModelConfig
from gptoss_ray.config import ServedModelConfig
from gptoss_ray.errors import RankDiedError
from gptoss_ray.parallel.membership import GroupMembership
from gptoss_ray.ranks.epoch_change import EpochChange
from gptoss_ray.ranks.expert_rebalancer import ExpertRebalancer
from gptoss_ray.ranks.group_events import EventKind, GroupEvents
from gptoss_ray.ranks.group_layout import GroupLayout
from gptoss_ray.ranks.lease_renewal import LeaseRenewal
from gptoss_ray.ranks.rank_facts import RankFacts, check_fingerprints
from gptoss_ray.ranks.rank_member import JOIN_TIMEOUT_S, RankPulse
from gptoss_ray.ranks.recovery import (
    FIRST_EPOCH,
    EpochBroke,
    EpochInStep,
    Event,
    GiveUp,
    Grant,
    Join,
    Members,
    Order,
    OrderDone,
    OrderFailed,
    Prepare,
    RankId,
    RankLost,
    Recovery,
    Replace,
    ReplacementLoaded,
    Stage,
    StageOverdue,
)

logger = logging.getLogger(__name__)

JOIN_MARGIN_S = 5.0
MAX_RESTART_DELAY_S = 60.0

REPLACE_AFTER_S = 2.0
"""How long the survivors serve before a replacement is started: it loads, while they resume what was lost."""


class GroupRanks(Protocol):
    """The processes of a group."""

    async def ask(self, rank: RankId, method: str, *args: object) -> Any:
        """Call a method of `EngineRank`; RankDiedError where its process has ended, else its own error."""
        ...

    async def start(self, rank: RankId) -> RankFacts:
        """Start a replacement, have it load and stand by; raises where that fails."""
        ...

    def end(self, rank: RankId) -> None:
        """End a rank's process; harmless where it has ended."""
        ...


class GroupKeeper:
    """Hears what happens to the ranks, one event at a time, and gives the orders that follow.

    Args:
        config: Of the group.
        model: Shape of its network.
        ranks: All have formed the first epoch.
        group_id: Unique name of the group.
        facts: Of every rank.
        note_open: Told the ranks that may be given requests, whenever they are others than before.

    Attributes:
        open_ranks: Those that may be given requests: they have completed a step, and are not lost.
        failure: Why the group was given up; None while it serves or heals.
        events: What has happened to it.
    """

    def __init__(
        self,
        config: ServedModelConfig,
        model: ModelConfig,
        ranks: GroupRanks,
        group_id: str,
        facts: Mapping[RankId, RankFacts],
        note_open: Callable[[list[RankId]], None] = lambda _: None,
    ) -> None:
        self._config = config
        self._parallel = parallel = config.parallel
        self._model = model
        self._ranks = ranks
        self._group_id = group_id
        self._facts = dict(facts)
        num_needed = parallel.num_ranks - parallel.num_tolerated_losses
        self._recovery = Recovery.of(parallel.num_ranks, num_needed, heals=parallel.heals_in_place)
        self._layout = GroupLayout.first(parallel.num_ranks, model.num_layers, model.num_experts)
        self._leases = LeaseRenewal(self._renew, parallel.lease_s, self._note_pulse, self._note_lost)
        self._events: asyncio.Queue[Event] = asyncio.Queue()
        self._plans: dict[int, asyncio.Task[tuple[GroupMembership, GroupLayout]]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._rebalancer: ExpertRebalancer | None = None
        self._rebalancing: asyncio.Task[None] | None = None
        self._warm = set(facts)
        self._warming: set[RankId] = set()
        self._note_open = note_open
        self.failure: str | None = None
        self._told_open = self.open_ranks
        self._num_failed_starts: dict[int, int] = {}
        self.events = GroupEvents()
        self._healed_s = 0.0
        self._stopped_at: float | None = None
        self._serves = asyncio.Event()

    @property
    def is_serving(self) -> bool:
        """Whether an epoch is granted: the group steps, unless something has just happened to it."""
        return self._recovery.granted > 0

    @property
    def epoch(self) -> int:
        """The newest that was issued."""
        return self._recovery.epoch

    @property
    def stage(self) -> Stage:
        """What the group is doing."""
        return self._recovery.stage

    @property
    def members(self) -> list[RankId]:
        """Of the newest epoch, in order."""
        return sorted(self._recovery.members)

    @property
    def hosts(self) -> dict[int, str]:
        """Address of the node of each rank, by its number."""
        return {rank.number: self._facts[rank].address for rank in sorted(self._facts)}

    @property
    def healing_s(self) -> float:
        """Seconds in which no epoch was granted, so that the group made nothing."""
        return self._healed_s + (0.0 if self._stopped_at is None else time.monotonic() - self._stopped_at)

    @property
    def open_ranks(self) -> list[RankId]:
        """See above; ascending, and none once the group was given up."""
        recovery = self._recovery
        members = recovery.granted_members if recovery.granted else recovery.members
        return sorted(self._warm & members) if self.failure is None else []

    def note_died(self, rank: RankId) -> None:
        """Learn from whoever called a rank that its process has ended."""
        self._warm.discard(rank)
        self._tell_open()
        self._hear(RankLost(rank))

    async def run(self) -> None:
        """Keep the group until cancelled, or until it is given up."""
        renewal = asyncio.create_task(self._leases.run())
        self._granted(FIRST_EPOCH, self._recovery.members)
        try:
            while self.failure is None:
                self._decide(await self._events.get())
        except Exception:  # a fault of ours: nobody would lead the ranks any more
            logger.exception("keeper_failed epoch=%d", self._recovery.epoch)
            self._give_up(GiveUp("its keeper failed"))
        finally:
            for task in [renewal, *self._tasks, *self._plans.values()]:
                task.cancel()
            self._stop_rebalancing()

    def _decide(self, event: Event) -> None:
        before = self._recovery
        self._recovery, orders = before.after(event)
        after = self._recovery
        if (after.stage, after.epoch) != (before.stage, before.epoch):
            logger.warning(
                "epoch_changes stage=%s epoch=%d members=%s event=%s",
                *(after.stage.name, after.epoch, ",".join(map(str, sorted(after.members)))),
                type(event).__name__,
            )
            self._watch_stage(after)
        if before.granted and not after.granted:
            self._leases.grant(0, frozenset())
            self._serves.clear()
            self._stopped_at = time.monotonic()
            if after.stage is not Stage.JOINING:
                self.events.note(EventKind.EPOCH_BROKE, before.granted, type(event).__name__)
        if after.stage is not Stage.SERVING:
            self._stop_rebalancing()
        for order in orders:
            self._carry_out(order)
        self._tell_open()
        self._leases.follow(after.members | (after.granted_members if after.granted else frozenset()))

    def _carry_out(self, order: Order) -> None:
        if isinstance(order, Prepare):
            if order.epoch not in self._plans:
                self._plans[order.epoch] = asyncio.create_task(self._plan(order.epoch))
            self._start(self._do(order.rank, order.epoch, Stage.PREPARING, self._prepare(order)))
        elif isinstance(order, Join):
            self._start(self._do(order.rank, order.epoch, Stage.JOINING, self._join(order)))
        elif isinstance(order, Grant):
            self._start(self._grant(order))
        elif isinstance(order, Replace):
            self._warm.discard(order.rank)
            self.events.note(EventKind.RANK_LOST, self.epoch, f"rank {order.rank}")
            self._ranks.end(order.rank)
            self._start(self._replace(order.rank.next()))
        else:
            self._give_up(order)

    def _tell_open(self) -> None:
        if (ranks := self.open_ranks) != self._told_open:
            self._told_open = ranks
            self._note_open(ranks)

    # What ranks are told

    async def _do(self, rank: RankId, epoch: int, stage: Stage, work: Awaitable[None]) -> None:
        """Have a rank do the order of a stage, and hear how that ended."""
        try:
            await work
        except RankDiedError as error:
            self._hear(RankLost(RankId(*error.rank)))  # perhaps the one that all were to meet
        except Exception as error:
            logger.warning("order_failed rank=%s epoch=%d stage=%s error=%r", rank, epoch, stage.name, error)
            self._hear(OrderFailed(rank, epoch, stage))
        else:
            self._hear(OrderDone(rank, epoch, stage))

    async def _prepare(self, order: Prepare) -> None:
        membership, layout = await asyncio.shield(self._plans[order.epoch])
        change = EpochChange(membership, layout.placements, layout.version, order.leaves)
        await self._ranks.ask(order.rank, "prepare_epoch", change)

    async def _join(self, order: Join) -> None:
        try:
            await asyncio.wait_for(
                self._ranks.ask(order.rank, "join_epoch", order.epoch), JOIN_TIMEOUT_S + JOIN_MARGIN_S
            )
        except asyncio.TimeoutError:  # its step hangs where nothing can interrupt it
            logger.error("rank_stuck rank=%s epoch=%d action=end", order.rank, order.epoch)
            self._ranks.end(order.rank)
            raise

    async def _plan(self, epoch: int) -> tuple[GroupMembership, GroupLayout]:
        """Work out, once for all members, who meets where with which experts."""
        parallel = self._parallel
        layout = self._layout.of_next(self._recovery.members, parallel.num_ranks, parallel.num_spare_experts)
        first = layout.members[0]
        address = self._facts[first].address
        port = await self._ranks.ask(first, "free_store_port", address)
        numbers = tuple(member.number for member in layout.members)
        return GroupMembership(self._group_id, epoch, self._hosts(layout), address, port, numbers), layout

    async def _grant(self, order: Grant) -> None:
        _, self._layout = await self._plans[order.epoch]
        self._plans = {}
        self._granted(order.epoch, order.members)

    def _granted(self, epoch: int, members: Members) -> None:
        if epoch != self._recovery.granted:
            return  # over already
        self._leases.follow(members)
        self._leases.grant(epoch, members)
        for rank in members:
            self._start(self._watch(rank, epoch))
        for rank in members - self._warm - self._warming:  # a warm-up outlives its epoch
            self._warming.add(rank)
            self._start(self._warm_up(rank))
        self._start_rebalancing()
        names = ",".join(map(str, sorted(members)))
        self._healed_s, self._stopped_at = self.healing_s, None
        self._serves.set()
        self.events.note(EventKind.EPOCH_GRANTED, epoch, f"members {names}")
        logger.info("epoch_granted epoch=%d members=%s", epoch, names)

    async def _warm_up(self, rank: RankId) -> None:
        """Let a newcomer complete a first request; only then it may be given others."""
        try:
            await self._ranks.ask(rank, "warm_up")
        except Exception as error:
            logger.error("warm_up_failed rank=%s error=%r action=end", rank, error)
            self._ranks.end(rank)
        else:
            self._warm.add(rank)
            self.events.note(EventKind.RANK_REPLACED, self.epoch, f"rank {rank}")
            self._tell_open()
            self._num_failed_starts.pop(rank.number, None)
        finally:
            self._warming.discard(rank)

    async def _replace(self, rank: RankId) -> None:
        """Start a rank in the place of a lost one, later where the last ones failed to start."""
        num_failed = self._num_failed_starts.get(rank.number, 0)
        self._num_failed_starts[rank.number] = num_failed + 1
        await self._serves.wait()
        await asyncio.sleep(min(MAX_RESTART_DELAY_S, REPLACE_AFTER_S + 2.0**num_failed - 1))
        try:
            facts = await self._ranks.start(rank)
            check_fingerprints([self._facts[self._layout.members[0]], facts])
        except Exception as error:
            self.events.note(EventKind.REPLACEMENT_FAILED, self.epoch, f"rank {rank}")
            logger.error("replacement_failed rank=%s error=%r", rank, error)
            self._hear(RankLost(rank))
        else:
            self._facts[rank] = facts
            self._hear(ReplacementLoaded(rank))

    def _give_up(self, order: GiveUp) -> None:
        """End all ranks: their streams break, which tells whoever reads them to send the requests again."""
        self.events.note(EventKind.GIVEN_UP, self.epoch, order.reason)
        logger.error("group_given_up epoch=%d reason=%s", self._recovery.epoch, order.reason)
        self.failure = order.reason
        for rank in self._facts:
            self._ranks.end(rank)

    # What is heard of ranks

    def _hear(self, event: Event) -> None:
        self._events.put_nowait(event)

    async def _renew(self, rank: RankId, call: int, heard: int, epoch: int) -> RankPulse:
        pulse: RankPulse = await self._ranks.ask(rank, "renew_lease", call, heard, epoch)
        return pulse

    def _note_pulse(self, pulse: RankPulse) -> None:
        if pulse.is_in_step and self._recovery.num_failed and pulse.epoch == self._recovery.granted:
            self._hear(EpochInStep(pulse.epoch))

    def _note_lost(self, rank: RankId) -> None:
        logger.error("rank_lost rank=%s", rank)
        self._hear(RankLost(rank))

    async def _watch(self, rank: RankId, epoch: int) -> None:
        """Learn at once that a rank has died, or that its epoch has broken."""
        try:
            await self._ranks.ask(rank, "wait_broken", epoch)
        except RankDiedError:
            self.note_died(rank)
        except Exception as error:  # the renewal of its lease tells whether it is lost
            logger.warning("watch_ended rank=%s error=%r", rank, error)
        else:
            self._hear(EpochBroke(epoch))

    def _watch_stage(self, recovery: Recovery) -> None:
        """Call a stage overdue after a time that is ample for it."""
        if recovery.stage is Stage.PREPARING:
            self._start(self._overdue(recovery.epoch, recovery.stage, self._config.startup_timeout_s))
        elif recovery.stage is Stage.JOINING:
            self._start(self._overdue(recovery.epoch, recovery.stage, 3 * JOIN_TIMEOUT_S))

    async def _overdue(self, epoch: int, stage: Stage, after_s: float) -> None:
        await asyncio.sleep(after_s)
        self._hear(StageOverdue(epoch, stage))

    # Experts that follow the load

    def _start_rebalancing(self) -> None:
        """Let experts follow the load, unless ranks are missing: then there is no room to choose."""
        parallel, layout = self._parallel, self._layout
        is_whole = len(layout.members) == parallel.num_ranks and layout.fits(parallel.num_spare_experts)
        if not (parallel.moves_experts and is_whole):
            return
        self._rebalancer = ExpertRebalancer(
            self._ask_number,
            self._model,
            parallel,
            self._hosts(layout),
            placements=layout.placements,
            version=layout.version,
            note_swap=self._note_swap,
        )
        self._rebalancing = asyncio.create_task(self._rebalancer.run())

    def _stop_rebalancing(self) -> None:
        """Remember where the experts are; a swap that is under way may yet be made."""
        if self._rebalancer is not None and self._rebalancing is not None:
            self._rebalancing.cancel()
            self._layout = GroupLayout(
                self._layout.members, self._rebalancer.placements, self._rebalancer.version
            )
        self._rebalancer = self._rebalancing = None

    def _note_swap(self, layer: int, version: int) -> None:
        self.events.note(EventKind.EXPERTS_SWAPPED, self.epoch, f"layer {layer}, placement {version}")

    async def _ask_number(self, index: int, method: str, *args: object) -> Any:
        return await self._ranks.ask(self._layout.members[index], method, *args)

    def _hosts(self, layout: GroupLayout) -> tuple[str, ...]:
        return layout.hosts({rank: facts.host_id for rank, facts in self._facts.items()})

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
