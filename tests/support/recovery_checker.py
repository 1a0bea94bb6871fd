"""Model checker of `ranks/recovery.py` and `ranks/rank_epoch.py`: every order of a few faults and messages.

A world is a replica, its ranks, and the orders and answers on their way between them, which arrive in any
order. From outside, ranks die, stop and wake up again, their steps fail, messages are lost or come twice.
Ranks with one request each step together where all members of their epoch are in it, and emit what a lease
covers. Time is not modelled: a lease of a rank that does not answer ends at some moment, and only after that
is the rank lost for being silent (`test_rank_epoch.py` explores why leases allow that).

Checked in each reachable world:

- leases that are valid are all of one epoch, and the one that the replica granted last;
- an epoch steps with all its members in it, each with the experts of that epoch;
- only the rank that owns a request emits for it, and only what it has not emitted before;
- faults cost few epochs;
- from there on, whatever happens by itself, in any order, leads in finitely many moves to a world that is
  settled: all members of the newest epoch serve, every lost rank is replaced, and every request is done or
  was handed back to its client; or the group has given up, and every request was handed back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import filterfalse
from typing import NamedTuple

from gptoss_ray.errors import GroupBrokenError
from gptoss_ray.ranks.rank_epoch import RankEpoch
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

Decide = Callable[[Recovery, Event], tuple[Recovery, tuple[Order, ...]]]
"""The replica's machine under test."""

NOW, LATER = 0.0, 1.0
NUM_TOKENS = 1


class RankMachine:
    """The rank's machine under test."""

    def prepare(self, state: RankEpoch, epoch: int) -> RankEpoch:
        return state.prepare(epoch)

    def join(self, state: RankEpoch, epoch: int) -> RankEpoch:
        return state.join(epoch)

    def may_emit(self, state: RankEpoch) -> bool:
        return state.may_emit(NOW)


@dataclass(frozen=True)
class Bounds:
    """How much may happen in a checked world, in any order and to any rank.

    Attributes:
        num_ranks: Ranks of the group.
        min_members: With fewer it gives up.
        num_deaths: Ranks whose process ends, replacements included.
        num_hangs: Ranks that stop; each may wake up again, once the replica has replaced it.
        num_faults: Steps that fail on one rank.
        num_losses: Orders and answers that never arrive.
        num_copies: Orders and answers that arrive twice.
        has_late: Whether what is out of date still arrives, though nothing may come of it.
        has_replacements: Whether ranks that take the place of lost ones ever load.
    """

    num_ranks: int
    min_members: int = 1
    num_deaths: int = 0
    num_hangs: int = 0
    num_faults: int = 0
    num_losses: int = 0
    num_copies: int = 0
    has_late: bool = False
    has_replacements: bool = True

    @property
    def max_epoch(self) -> int:
        """No fault costs more than four epochs."""
        num_faults = self.num_deaths + self.num_hangs + self.num_faults + self.num_losses + self.num_copies
        return 2 + 4 * num_faults


class RecoveryViolationError(AssertionError):
    """A world that must not be, and a shortest way to it."""

    def __init__(self, what: str, trace: list[str]) -> None:
        super().__init__("\n  ".join([what, *trace]))


class Rank(NamedTuple):
    """One process: `is_in` the collectives of the epoch it joined, or `entering` another.

    `experts` is the epoch whose experts it computes with.
    """

    id: RankId
    status: str = "alive"
    state: RankEpoch = RankEpoch()
    is_in: bool = False
    entering: int = 0
    experts: int = FIRST_EPOCH
    has_token: bool = False
    is_condemned: bool = False

    def loses_lease(self) -> Rank:
        return self._replace(state=_leased(self.state, self.state.lease_epoch, NOW))


class Request(NamedTuple):
    """The rank that works on it, None once it is handed back; tokens drawn and emitted."""

    owner: RankId | None
    drawn: int = 0
    emitted: int = 0


class World(NamedTuple):
    """All there is, and what may still happen."""

    recovery: Recovery
    ranks: tuple[Rank, ...]
    requests: tuple[Request, ...]
    orders: frozenset[Prepare | Join]
    answers: frozenset[Event]
    epochs: tuple[tuple[int, Members], ...]
    deaths: int
    hangs: int
    faults: int
    losses: int
    copies: int
    has_lost_message: bool = False

    def rank(self, id_: RankId) -> Rank:
        return next(rank for rank in self.ranks if rank.id == id_)

    def with_rank(self, rank: Rank) -> World:
        return self._replace(ranks=tuple(rank if each.id == rank.id else each for each in self.ranks))

    def members(self, epoch: int) -> list[Rank]:
        (ids,) = [members for number, members in self.epochs if number == epoch]
        return [rank for rank in self.ranks if rank.id in ids]

    def is_whole(self, epoch: int) -> bool:
        """Whether all members of an epoch can do a collective of it."""
        return all(
            rank.status == "alive" and rank.is_in and rank.state.joined == epoch
            for rank in self.members(epoch)
        )

    def never_whole(self, epoch: int) -> bool:
        """Whether an epoch can be formed no more, as a member is gone or was told of a later one."""
        return any(
            rank.status in ("dead", "hung") or rank.state.prepared > epoch for rank in self.members(epoch)
        )

    def is_settled(self, *, has_replacements: bool) -> bool:
        """Whether nobody is owed anything: no token, no epoch, no replacement."""
        recovery = self.recovery
        is_over = all(request.owner is None or request.emitted == NUM_TOKENS for request in self.requests)
        if recovery.stage is Stage.GIVEN_UP:
            return is_over
        return (
            is_over
            and recovery.stage is Stage.SERVING
            and not (has_replacements and recovery.starting)
            and not recovery.standby
            and recovery.num_failed == 0
            and self.is_whole(recovery.epoch)
        )


class Checker:
    """Explores all worlds of the two machines within bounds."""

    def __init__(self, decide: Decide, bounds: Bounds, machine: RankMachine | None = None) -> None:
        self._decide = decide
        self._machine = machine or RankMachine()
        self._bounds = bounds
        self._delays_answers = bool(bounds.has_late or bounds.num_losses or bounds.num_copies)
        # Worlds are told apart by their hash, of 64 bits, and kept only until they are explored.
        self._indices: dict[int, int] = {}
        self._worlds: dict[int, World] = {}
        self._came_from: list[tuple[int, str]] = []
        self._own_moves: list[set[int]] = []
        self._are_settled: list[bool] = []

    def check(self) -> int:
        """Explore, and return the number of worlds; raises RecoveryViolationError."""
        bounds = self._bounds
        recovery = Recovery.of(bounds.num_ranks, bounds.min_members)
        first = _leased(RankEpoch(joined=FIRST_EPOCH, prepared=FIRST_EPOCH), FIRST_EPOCH, LATER)
        ids = sorted(recovery.members)
        self._discover(
            World(
                recovery,
                tuple(Rank(id_, state=first, is_in=True) for id_ in ids),
                tuple(Request(id_) for id_ in ids),
                frozenset(),
                frozenset(),
                ((FIRST_EPOCH, recovery.members),),
                bounds.num_deaths,
                bounds.num_hangs,
                bounds.num_faults,
                bounds.num_losses,
                bounds.num_copies,
            ),
            0,
            "start",
        )
        index = 0
        while index in self._worlds:
            world = self._worlds.pop(index)
            self._are_settled.append(world.is_settled(has_replacements=self._bounds.has_replacements))
            try:
                self._check(world)
                self._own_moves.append(
                    {self._discover(after, index, label) for label, after in self._own(world)} - {index}
                )
                for label, after in self._from_outside(world):
                    self._discover(after, index, label)
            except AssertionError as error:
                raise RecoveryViolationError(str(error), self._trace(index)) from error
            index += 1
        self._check_that_all_settle()
        return index

    def _discover(self, world: World, before: int, label: str) -> int:
        if not self._bounds.has_late:
            world = _without_late(world)
        index = self._indices.setdefault(hash(world), len(self._came_from))
        if index == len(self._came_from):
            self._worlds[index] = world
            self._came_from.append((before, label))
        return index

    def _trace(self, index: int) -> list[str]:
        labels: list[str] = []
        while index:
            index, label = self._came_from[index]
            labels.append(label)
        return labels[::-1]

    def _check(self, world: World) -> None:
        emitting = {
            rank.state.joined
            for rank in world.ranks
            if rank.status in ("alive", "hung") and self._machine.may_emit(rank.state)
        }
        assert world.recovery.epoch <= self._bounds.max_epoch, "epochs follow each other without end"
        assert len(emitting) <= 1, f"epochs {sorted(emitting)} emit at once"

    def _check_that_all_settle(self) -> None:
        """Peel off settled worlds, then those whose every own move leads to peeled ones."""
        befores: list[list[int]] = [[] for _ in self._own_moves]
        num_ahead: dict[int, int] = {}
        peeled = []
        for index, (is_settled, afters) in enumerate(zip(self._are_settled, self._own_moves, strict=True)):
            if not afters and is_settled:
                peeled.append(index)
                continue
            num_ahead[index] = len(afters)
            for after in afters:
                befores[after].append(index)
        while peeled:
            for before in befores[peeled.pop()]:
                num_ahead[before] -= 1
                if num_ahead[before] == 0:
                    del num_ahead[before]
                    peeled.append(before)
        if num_ahead:
            stuck = [index for index in num_ahead if not self._own_moves[index]]
            first = min(stuck or num_ahead)
            raise RecoveryViolationError("need not ever settle", self._trace(first))

    # What happens by itself

    def _own(self, world: World) -> Iterator[tuple[str, World]]:
        moves = [(label, after) for label, after in self._moves(world) if after != world]
        yield from moves
        stage = world.recovery.stage
        if world.has_lost_message and not moves and stage in (Stage.PREPARING, Stage.JOINING):
            yield "the stage is overdue", self._tell(world, StageOverdue(world.recovery.epoch, stage))

    def _moves(self, world: World) -> Iterator[tuple[str, World]]:
        for answer in world.answers:
            after = world._replace(answers=world.answers - {answer})
            yield f"replica hears {answer}", self._tell(after, answer)
        for order in world.orders:
            if world.rank(order.rank).status == "alive":
                after = world._replace(orders=world.orders - {order})
                yield f"rank {order.rank} gets {order}", self._obey(after, order)
        for rank in world.ranks:
            for label, after in self._moves_of(world, rank):
                yield f"rank {rank.id} {label}", after
        granted = world.recovery.granted
        if granted:
            yield from self._moves_of_epoch(world, granted)

    def _moves_of_epoch(self, world: World, granted: int) -> Iterator[tuple[str, World]]:
        if world.is_whole(granted):
            if world.recovery.num_failed:
                yield "replica hears that the epoch is in step", self._tell(world, EpochInStep(granted))
            after = world
            for number, request in enumerate(world.requests):
                rank = None if request.owner is None else world.rank(request.owner)
                if rank is not None and request.drawn < NUM_TOKENS and not rank.has_token:
                    assert rank.experts == granted, "a step with the experts of another epoch"
                    after = _with_request(after, number, request._replace(drawn=request.drawn + 1))
                    after = after.with_rank(rank._replace(has_token=True))
            yield f"epoch {granted} steps", after

    def _moves_of(self, world: World, rank: Rank) -> Iterator[tuple[str, World]]:
        if rank.status == "dead":
            yield "is found dead", self._tell(world, RankLost(rank.id))
        elif rank.status == "hung":
            if rank.state.may_emit(NOW):
                yield "lets its lease end", world.with_rank(rank.loses_lease())
            else:
                yield "is found silent", self._tell(world, RankLost(rank.id))
        elif rank.is_condemned:
            yield "ends", _dies(world, rank)
        elif rank.status == "loading":
            if not self._bounds.has_replacements:
                return
            loaded = world.with_rank(rank._replace(status="alive"))
            yield "has loaded", self._answer(loaded, ReplacementLoaded(rank.id))
        else:
            yield from self._moves_of_living(world, rank)

    def _moves_of_living(self, world: World, rank: Rank) -> Iterator[tuple[str, World]]:
        if rank.has_token and self._machine.may_emit(rank.state):
            yield "emits", self._emit(world, rank)
        if rank.entering:
            yield from self._moves_of_entering(world, rank)
        elif rank.is_in:
            epoch = rank.state.joined
            if any(_has_left(member, epoch) for member in world.members(epoch)):
                broken = world.with_rank(rank._replace(is_in=False))
                yield "finds its group broken", self._answer(broken, EpochBroke(epoch))

    def _moves_of_entering(self, world: World, rank: Rank) -> Iterator[tuple[str, World]]:
        epoch = rank.entering
        members = world.members(epoch)
        is_met = all(
            member.entering == epoch or (member.is_in and member.state.joined == epoch) for member in members
        )
        if is_met and rank.state.prepared == epoch:
            joined = self._machine.join(rank.state, epoch)
            after = world.with_rank(
                rank._replace(entering=0, is_in=True, state=joined, experts=rank.state.prepared)
            )
            yield f"joins epoch {epoch}", self._answer(after, OrderDone(rank.id, epoch, Stage.JOINING))
        if world.never_whole(epoch) or rank.state.prepared > epoch:
            after = world.with_rank(rank._replace(entering=0))
            yield (
                f"meets not all of epoch {epoch}",
                self._answer(after, OrderFailed(rank.id, epoch, Stage.JOINING)),
            )

    def _emit(self, world: World, rank: Rank) -> World:
        after = world.with_rank(rank._replace(has_token=False))
        owned = [number for number, request in enumerate(world.requests) if request.owner == rank.id]
        assert owned, f"rank {rank.id} emits for a request that was handed back"
        (number,) = owned
        request = world.requests[number]
        assert request.emitted < request.drawn, "a token is emitted twice"
        return _with_request(after, number, request._replace(emitted=request.emitted + 1))

    def _obey(self, world: World, order: Prepare | Join) -> World:
        rank = world.rank(order.rank)
        stage = Stage.PREPARING if isinstance(order, Prepare) else Stage.JOINING
        try:
            if isinstance(order, Join):
                self._machine.join(rank.state, order.epoch)  # refused before it leaves anything
                return world.with_rank(rank._replace(entering=order.epoch, is_in=False))
            state = self._machine.prepare(rank.state, order.epoch)
        except GroupBrokenError:
            return self._answer(world, OrderFailed(rank.id, order.epoch, stage))
        prepared = rank._replace(state=state, is_in=rank.is_in and not order.leaves)
        return self._answer(world.with_rank(prepared), OrderDone(rank.id, order.epoch, stage))

    def _answer(self, world: World, event: Event) -> World:
        """Send an event to the replica; it takes time only where messages are lost, late or come twice.

        Otherwise what arrives later in the same epoch makes no difference, and in a later one is late.
        """
        if self._delays_answers:
            return world._replace(answers=world.answers | {event})
        return self._tell(world, event)

    def _tell(self, world: World, event: Event) -> World:
        """Let the replica decide, and do at once what its orders mean to those who hear no message."""
        recovery, orders = self._decide(world.recovery, event)
        world = world._replace(recovery=recovery)
        for order in orders:
            world = _carry_out(world, order)
        return world

    # What happens to them

    def _from_outside(self, world: World) -> Iterator[tuple[str, World]]:
        if world.recovery.stage is Stage.GIVEN_UP:
            return
        for rank in world.ranks:
            if rank.status == "alive" and not rank.is_condemned:
                if world.hangs:
                    hung = world.with_rank(rank._replace(status="hung"))
                    yield f"rank {rank.id} is stopped", hung._replace(hangs=world.hangs - 1)
                if world.faults and rank.is_in:
                    failed = world.with_rank(rank._replace(is_in=False))._replace(faults=world.faults - 1)
                    yield (
                        f"a step of rank {rank.id} fails",
                        self._answer(failed, EpochBroke(rank.state.joined)),
                    )
            can_die = rank.status == "alive" or (rank.status == "loading" and self._bounds.has_replacements)
            if can_die and world.deaths:
                yield f"rank {rank.id} dies", _dies(world, rank)._replace(deaths=world.deaths - 1)
            if rank.status == "hung":
                yield f"rank {rank.id} wakes up", _wakes(world, rank)
        if world.losses:
            yield from self._lose_message(world)
        if world.copies:
            yield from self._copy_message(world)

    def _lose_message(self, world: World) -> Iterator[tuple[str, World]]:
        lost = world._replace(losses=world.losses - 1, has_lost_message=True)
        for order in world.orders:
            yield f"{order} is lost", lost._replace(orders=world.orders - {order})
        for answer in world.answers:
            if isinstance(answer, OrderDone):
                yield f"{answer} is lost", lost._replace(answers=world.answers - {answer})

    def _copy_message(self, world: World) -> Iterator[tuple[str, World]]:
        copied = world._replace(copies=world.copies - 1)
        for order in world.orders:
            if world.rank(order.rank).status == "alive":
                yield f"rank {order.rank} gets a copy of {order}", self._obey(copied, order)
        for answer in world.answers:
            yield f"replica hears a copy of {answer}", self._tell(copied, answer)


def _has_left(member: Rank, epoch: int) -> bool:
    """Tell whether a member of an epoch, formed by others already, is no part of it or will never be."""
    if member.status != "alive" or member.state.joined > epoch:
        return True
    return not member.is_in if member.state.joined == epoch else member.entering != epoch


def _carry_out(world: World, order: Order) -> World:
    if isinstance(order, Prepare):
        if all(epoch != order.epoch for epoch, _ in world.epochs):
            world = world._replace(epochs=(*world.epochs, (order.epoch, world.recovery.members)))
        return world._replace(orders=world.orders | {order})
    if isinstance(order, Join):
        return world._replace(orders=world.orders | {order})
    if isinstance(order, Grant):
        for rank in world.ranks:
            if rank.id in order.members and rank.status == "alive" and rank.state.joined == order.epoch:
                world = world.with_rank(rank._replace(state=_leased(rank.state, order.epoch, LATER)))
        return world
    if isinstance(order, Replace):
        lost = world.rank(order.rank)
        assert not (lost.status == "alive" and lost.state.may_emit(NOW)), "a rank that may emit is replaced"
        world = _hand_back(world.with_rank(lost._replace(is_condemned=lost.status != "dead")), order.rank)
        ranks = sorted([*world.ranks, Rank(order.rank.next(), "loading")])
        return world._replace(ranks=tuple(ranks))
    if isinstance(order, GiveUp):  # every rank hands its requests back by itself, or has no lease
        for rank in world.ranks:
            world = _dies(world, rank)
            world = _hand_back(world, rank.id)
    return world


def _without_late(world: World) -> World:
    epoch = world.recovery.epoch
    if all(order.epoch == epoch for order in world.orders) and not any(map(_is_late(world), world.answers)):
        return world
    return world._replace(
        orders=frozenset(order for order in world.orders if order.epoch == epoch),
        answers=frozenset(filterfalse(_is_late(world), world.answers)),
    )


def _is_late(world: World) -> Callable[[Event], bool]:
    epoch, granted = world.recovery.epoch, world.recovery.granted

    def is_late(answer: Event) -> bool:
        if isinstance(answer, EpochBroke):
            return answer.epoch not in (epoch, granted)
        return isinstance(answer, OrderDone | OrderFailed) and answer.epoch != epoch

    return is_late


def _hand_back(world: World, rank: RankId) -> World:
    requests = [each._replace(owner=None) if each.owner == rank else each for each in world.requests]
    return world._replace(requests=tuple(requests))


def _dies(world: World, rank: Rank) -> World:
    dead = rank._replace(status="dead", is_in=False, entering=0, has_token=False, is_condemned=False)
    after = world.with_rank(dead.loses_lease())
    return after._replace(orders=frozenset(order for order in world.orders if order.rank != rank.id))


def _wakes(world: World, rank: Rank) -> World:
    awake = rank._replace(status="alive")
    granted = world.recovery.granted
    if (
        awake.state.joined == granted and rank.id in world.recovery.granted_members
    ):  # it answers, and is renewed
        awake = awake._replace(state=_leased(awake.state, granted, LATER))
    return world.with_rank(awake)


def _with_request(world: World, number: int, request: Request) -> World:
    requests = list(world.requests)
    requests[number] = request
    return world._replace(requests=tuple(requests))


def _leased(state: RankEpoch, epoch: int, until: float) -> RankEpoch:
    return RankEpoch(state.joined, state.prepared, epoch, until)
