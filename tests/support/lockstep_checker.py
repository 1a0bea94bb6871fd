"""Model checker of `parallel/lockstep.py`: every interleaving of a few ranks, within bounds.

A world is the ranks of a group as the machine drives them, plus what the outside may still do to them.
Explored are all orders of what ranks do (enter a collective, read its result, run a call, come back at a
heartbeat) and of what happens to them (requests, wakes, deaths, failing steps, a new epoch, the end).
Time is not modelled: a waiting rank's heartbeat may come at any moment, and no wake ever has to come.

Checked in each reachable world:

- no event meets a phase that does not know it, and collectives that meet are of one kind;
- each step was agreed on in the epoch in which it runs;
- while ranks have work, none lets a second heartbeat pass: a lost wake costs at most one;
- nobody ends with work left;
- from there on, whatever the ranks do by themselves, in any order, leads in finitely many moves to a world
  that is settled: all requests stepped, or, after a loss or the end, all ranks stopped. This says that
  there is neither a deadlock nor a livelock, without any assumption of fairness but one: what is told to
  all ranks (a new epoch, the end) reaches each of them some time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Literal, NamedTuple

from gptoss_ray.config import ParallelConfig
from gptoss_ray.parallel.lockstep import FIRST_PHASE, Event, Phase, agreed
from gptoss_ray.parallel.step_sync import GroupStepSync, StepDemand, encode

Machine = Callable[[Phase, Event, bool], Phase]
"""The machine under test: (phase, event, whether the rank itself has work) → phase."""

Call = Literal["submit", "wake", "leave", "join"]

_EVENT_OF_CALL = {
    "submit": Event.SUBMITTED,
    "wake": Event.WOKEN,
    "leave": Event.ASKED_TO_LEAVE,
    "join": Event.EPOCH_CHANGED,
}


@dataclass(frozen=True)
class Bounds:
    """How much may happen in a checked world, in any order and to any rank.

    Attributes:
        num_ranks: Ranks of the group.
        num_requests: Requests submitted.
        steps_per_request: Steps that a request takes.
        num_wakes: Wakes that arrive, whether or not somebody has work.
        num_deaths: Ranks whose process ends.
        num_faults: Steps that fail on one rank, which leaves the group for that.
        changes_epoch: Whether the living ranks are told to form a second epoch.
        ends: Whether the ranks are told to leave, after all requests are done.
        has_heartbeat: Whether a wait ends by itself.
    """

    num_ranks: int
    num_requests: int = 1
    steps_per_request: int = 2
    num_wakes: int = 0
    num_deaths: int = 0
    num_faults: int = 0
    changes_epoch: bool = False
    ends: bool = False
    has_heartbeat: bool = True


class LockstepViolationError(AssertionError):
    """A world that must not be; `trace` is a shortest way to it."""

    def __init__(self, what: str, trace: list[str]) -> None:
        super().__init__("\n  ".join([what, *trace]))
        self.trace = trace


class Rank(NamedTuple):
    """One rank of a world.

    `posted` is the phase in whose collective it waits, `result` what that collective made while it has not
    read it. `coming` are calls that have been sent, `invited` is the newest epoch that counts on it.
    """

    phase: Phase = FIRST_PHASE
    posted: Phase | None = None
    result: Event | None = None
    inbox: tuple[Call, ...] = ()
    coming: tuple[Call, ...] = ()
    work: int = 0
    is_alive: bool = True
    is_leaving: bool = False
    has_lost_group: bool = False
    was_late: bool = False
    epoch: int = 1
    invited: int = 1
    agreed_epoch: int = 0


class World(NamedTuple):
    """Ranks in no particular order, and what may still happen to them."""

    ranks: tuple[Rank, ...]
    requests: int
    wakes: int
    deaths: int
    faults: int
    may_change_epoch: bool
    may_end: bool

    def members(self, epoch: int) -> list[Rank]:
        """Those that a collective of an epoch needs; all ranks were in the first."""
        return [rank for rank in self.ranks if epoch in (1, rank.invited)]

    def is_broken(self, epoch: int) -> bool:
        """Whether a member has died, left, or gone on to a later epoch."""
        return any(
            not rank.is_alive or rank.epoch > epoch or (rank.epoch == epoch and rank.has_lost_group)
            for rank in self.members(epoch)
        )

    @property
    def is_settled(self) -> bool:
        """Whether the ranks owe nobody anything: no request, no stop, no new epoch."""
        living = [rank for rank in self.ranks if rank.is_alive]
        if any(rank.coming for rank in living):
            return True  # nothing is owed before it has arrived
        acting = [rank for rank in living if rank.phase is not Phase.STOPPED]
        return not (
            any("join" in rank.inbox for rank in living)
            or any(rank.work or "submit" in rank.inbox for rank in acting)
            or any(self.is_broken(rank.epoch) for rank in acting)
            or (acting and all(rank.is_leaving or "leave" in rank.inbox for rank in acting))
        )


class Checker:
    """Explores all worlds of a machine within bounds.

    Args:
        machine: What decides a rank's next phase.
        bounds: How much happens.
    """

    def __init__(self, machine: Machine, bounds: Bounds) -> None:
        self._machine = machine
        self._bounds = bounds
        self._rank_ids: dict[Rank, int] = {}
        self._indices: dict[tuple[int, ...], int] = {}
        # By index, in order of discovery, so that every way back from a world is a shortest one.
        self._worlds: list[World] = []
        self._came_from: list[tuple[int, str]] = []
        self._own_moves: list[list[int]] = []

    def check(self) -> int:
        """Explore, and return the number of worlds; raises LockstepViolationError."""
        bounds = self._bounds
        ranks = (Rank(),) * bounds.num_ranks
        budget = (bounds.num_requests, bounds.num_wakes, bounds.num_deaths, bounds.num_faults)
        self._discover(World(ranks, *budget, bounds.changes_epoch, bounds.ends), 0, "start")
        for index, world in enumerate(self._worlds):  # which grows
            self._own_moves.append(self._explore(index, self._own(world)))
            self._explore(index, self._from_outside(world))
        self._check_that_all_settle()
        return len(self._worlds)

    def _explore(self, index: int, moves: Iterator[tuple[str, World]]) -> list[int]:
        try:
            return [self._discover(after, index, label) for label, after in moves]
        except AssertionError as error:
            raise LockstepViolationError(str(error), self._trace(index)) from error

    def _discover(self, world: World, before: int, label: str) -> int:
        """Return the index of a world, or of one with the same ranks in another order: they are alike."""
        by_id = sorted((self._rank_ids.setdefault(rank, len(self._rank_ids)), rank) for rank in world.ranks)
        index = self._indices.setdefault((*(id_ for id_, _ in by_id), *world[1:]), len(self._worlds))
        if index == len(self._worlds):
            self._worlds.append(world._replace(ranks=tuple(rank for _, rank in by_id)))
            self._came_from.append((before, label))
        return index

    def _trace(self, index: int) -> list[str]:
        labels: list[str] = []
        while index:
            index, label = self._came_from[index]
            labels.append(label)
        return labels[::-1]

    def _check_that_all_settle(self) -> None:
        """Peel off settled worlds, then those whose every own move leads to peeled ones."""
        befores: list[list[int]] = [[] for _ in self._worlds]
        num_ahead: dict[int, int] = {}
        peeled = []
        for index, (world, afters) in enumerate(zip(self._worlds, self._own_moves, strict=True)):
            if world.is_settled:
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
            first = min(num_ahead)
            raise LockstepViolationError(
                f"ranks need not ever settle: {self._worlds[first]}", self._trace(first)
            )

    # What ranks do by themselves

    def _own(self, world: World) -> Iterator[tuple[str, World]]:
        for index, rank in enumerate(world.ranks):
            if rank.is_alive:
                for label, after in self._moves_of(world, index, rank):
                    yield f"{rank.phase.name.lower()} rank: {label}", after

    def _moves_of(self, world: World, index: int, rank: Rank) -> Iterator[tuple[str, World]]:
        if rank.posted is not None or rank.result is not None:
            if rank.result is not None:
                yield f"reads {rank.result.name}", self._take(world, index, rank, rank.result)
            if world.is_broken(rank.epoch):
                yield "finds its group lost", self._take(world, index, rank, Event.GROUP_LOST)
        elif rank.phase in (Phase.SYNCING, Phase.STEPPING):
            yield "enters its collective", self._post(world, index, rank)
        else:
            if rank.inbox:
                yield f"runs {rank.inbox[0]}", self._run_call(world, index, rank)
            if rank.phase is Phase.WAITING and self._bounds.has_heartbeat:
                yield "has a heartbeat", self._heartbeat(world, index, rank)

    def _post(self, world: World, index: int, rank: Rank) -> World:
        """Enter the collective of the phase; the last member to come completes it for all."""
        while rank.phase is Phase.SYNCING and rank.inbox:
            world = self._run_call(world, index, rank)
            rank = world.ranks[index]
        if rank.phase not in (Phase.SYNCING, Phase.STEPPING):
            return world
        assert rank.phase is Phase.SYNCING or rank.agreed_epoch == rank.epoch, "a step of another epoch"
        world = _with(world, index, rank._replace(posted=rank.phase))
        members = world.members(rank.epoch)
        here = [member for member in members if member.epoch == rank.epoch and member.posted is not None]
        assert len({member.posted for member in here}) == 1, "a sync meets a step"
        if len(here) < len(members):
            return world
        demands = frozenset((member.work > 0, member.is_leaving) for member in members)
        result = _agreed_event(demands) if rank.phase is Phase.SYNCING else Event.STEP_DONE
        return world._replace(
            ranks=tuple(
                each._replace(posted=None, result=result) if each.epoch == rank.epoch else each
                for each in world.ranks
            )
        )

    def _run_call(self, world: World, index: int, rank: Rank) -> World:
        call, inbox = rank.inbox[0], rank.inbox[1:]
        rank = rank._replace(inbox=inbox)
        if call == "join":
            rank = rank._replace(epoch=rank.invited, has_lost_group=False, was_late=False)
        elif rank.phase is Phase.STOPPED:
            return _with(world, index, rank)  # refused, or of no meaning any more
        elif call == "submit":
            rank = rank._replace(work=self._bounds.steps_per_request)
        elif call == "leave":
            rank = rank._replace(is_leaving=True)
        return self._take(world, index, rank, _EVENT_OF_CALL[call])

    def _heartbeat(self, world: World, index: int, rank: Rank) -> World:
        if any(each.work for each in world.ranks) and not world.is_broken(rank.epoch):
            assert not rank.was_late, "a second heartbeat passed while a rank had work"
            rank = rank._replace(was_late=True)
        return self._take(world, index, rank, Event.HEARTBEAT_DUE)

    def _take(self, world: World, index: int, rank: Rank, event: Event) -> World:
        """Let an event act on a rank and its phase."""
        rank = rank._replace(posted=None, result=None)
        if event is Event.AGREED_TO_STEP:
            rank = rank._replace(agreed_epoch=rank.epoch)
        elif event is Event.STEP_DONE:
            rank = rank._replace(work=max(0, rank.work - 1))
        elif event is Event.GROUP_LOST:  # its requests fail
            rank = rank._replace(work=0, has_lost_group=True)
        elif event is Event.AGREED_TO_END:
            assert rank.work == 0 and "submit" not in rank.inbox, "a request is dropped at the end"
        rank = rank._replace(phase=self._machine(rank.phase, event, rank.work > 0))
        world = _with(world, index, rank)
        if not any(each.work for each in world.ranks):
            world = world._replace(ranks=tuple(each._replace(was_late=False) for each in world.ranks))
        return world

    # What happens to them

    def _from_outside(self, world: World) -> Iterator[tuple[str, World]]:
        for index, rank in enumerate(world.ranks):
            if rank.is_alive:
                yield from self._happens_to(world, index, rank)
        living = [rank for rank in world.ranks if rank.is_alive]
        if world.may_change_epoch and not any(rank.is_leaving or rank.coming for rank in living):
            yield "all are told of a new epoch", _tell(world, "join")._replace(may_change_epoch=False)
        is_busy = any(rank.work or "submit" in rank.inbox for rank in living)
        if world.may_end and not world.requests and not is_busy:
            yield (
                "all are told to leave",
                _tell(world, "leave")._replace(may_end=False, may_change_epoch=False),
            )

    def _happens_to(self, world: World, index: int, rank: Rank) -> Iterator[tuple[str, World]]:
        if rank.coming:
            arrived = rank._replace(coming=rank.coming[1:], inbox=(*rank.inbox, rank.coming[0]))
            yield f"{rank.phase.name.lower()} rank hears: {rank.coming[0]}", _with(world, index, arrived)
        if world.requests:
            submitted = _with(world, index, rank._replace(inbox=(*rank.inbox, "submit")))
            yield (
                f"{rank.phase.name.lower()} rank is given a request",
                submitted._replace(requests=world.requests - 1),
            )
        if world.wakes:
            woken = _with(world, index, rank._replace(inbox=(*rank.inbox, "wake")))
            yield f"{rank.phase.name.lower()} rank is woken", woken._replace(wakes=world.wakes - 1)
        if world.deaths:
            dead = _with(world, index, rank._replace(is_alive=False, inbox=(), coming=(), work=0))
            yield f"{rank.phase.name.lower()} rank dies", dead._replace(deaths=world.deaths - 1)
        if world.faults and rank.phase is Phase.STEPPING:
            failed = self._take(world, index, rank, Event.GROUP_LOST)
            yield "the step of a rank fails", failed._replace(faults=world.faults - 1)


def _with(world: World, index: int, rank: Rank) -> World:
    return world._replace(ranks=(*world.ranks[:index], rank, *world.ranks[index + 1 :]))


def _tell(world: World, call: Call) -> World:
    """Send every living rank a call that arrives some time; who is to join counts from now on."""
    return world._replace(
        ranks=tuple(
            rank._replace(coming=(*rank.coming, call), invited=2 if call == "join" else rank.invited)
            if rank.is_alive
            else rank
            for rank in world.ranks
        )
    )


class _OneSide:
    """A link whose collective knows the other ranks' demands beforehand."""

    epoch = 1

    def __init__(self, others: list[StepDemand]) -> None:
        self._others = others
        self.collectives = self
        self.timeout_s = 0.0

    def all_reduce_max(self, values: list[int]) -> list[int]:
        vectors = [values, *(encode(demand, self.epoch) for demand in self._others)]
        return [max(column) for column in zip(*vectors, strict=True)]


@cache
def _agreed_event(demands: frozenset[tuple[bool, bool]]) -> Event:
    """What the real sync makes of the (has work, is leaving) of all ranks."""
    first, *others = [StepDemand(int(has_work), 0, is_leaving=leaving) for has_work, leaving in demands]
    sync = GroupStepSync(_OneSide(others), ParallelConfig())  # type: ignore[arg-type]
    return agreed(sync.agree(first))
