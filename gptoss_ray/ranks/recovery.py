"""What a replica decides about its group: who forms which epoch, who is replaced, when to give up. Pure.

A group lives in epochs. Each has members; only the replica issues epochs, and each is later than all before::

              ┌────────────────────── all have joined: they get leases ──────────────────────┐
              ▼                                                                              │
    ─▶ SERVING ── a member is lost, or the epoch broke ─▶ PREPARING ── all have prepared ─▶ JOINING
          │ ▲                                             │  ▲   ▲                              │
          │ └── the newcomer is lost ─────────────────────┘  │   └── one is lost, or did not ───┘
          └──── a replacement has loaded ────────────────────┘
                                           too few are left, or too many epochs fail ─▶ GIVEN_UP

- **SERVING**: the members step together and hold leases of the epoch.
- **PREPARING**: the members of the next epoch read the experts that it gives them. After a loss they have
  left the broken epoch; when a replacement comes, the present epoch goes on meanwhile.
- **JOINING**: the members leave what they are in and form the next epoch.
- **GIVEN_UP**: the group ends its requests, and its replica is replaced.

`RankLost` is said of a rank only once it can emit no more: its process has ended, or it has been silent for
longer than any lease it may hold. So a new epoch, whose leases come last, never emits beside an old one.

Tests explore every order of events (`tests/support/recovery_checker.py`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum, auto
from typing import NamedTuple

FIRST_EPOCH = 1

MAX_FAILED_EPOCHS = 8
"""So many epochs in a row that never come into step: it is not deaths that keep the group down."""


class RankId(NamedTuple):
    """A rank's number in its group, which its replacement inherits, and how many held it before."""

    number: int
    incarnation: int = 0

    def __str__(self) -> str:
        return f"{self.number}" if not self.incarnation else f"{self.number}.{self.incarnation}"

    def next(self) -> RankId:
        """Return the rank that takes this one's place."""
        return RankId(self.number, self.incarnation + 1)


Members = frozenset[RankId]


class Stage(Enum):
    """What the replica waits for."""

    SERVING = auto()
    PREPARING = auto()
    JOINING = auto()
    GIVEN_UP = auto()


@dataclass(frozen=True, slots=True)
class RankLost:
    """A rank's process has ended, or it is silent and every lease of it is over."""

    rank: RankId


@dataclass(frozen=True, slots=True)
class EpochBroke:
    """A member says that a collective of its epoch failed, or that its own step did."""

    epoch: int


@dataclass(frozen=True, slots=True)
class OrderDone:
    """A rank has done the order of a stage for an epoch."""

    rank: RankId
    epoch: int
    stage: Stage


@dataclass(frozen=True, slots=True)
class OrderFailed:
    """A living rank could not do the order."""

    rank: RankId
    epoch: int
    stage: Stage


@dataclass(frozen=True, slots=True)
class EpochInStep:
    """The members of an epoch have agreed on something in it."""

    epoch: int


@dataclass(frozen=True, slots=True)
class ReplacementLoaded:
    """A replacement has loaded, and could become a member."""

    rank: RankId


@dataclass(frozen=True, slots=True)
class StageOverdue:
    """A stage takes longer than it may, though no rank is lost."""

    epoch: int
    stage: Stage


Event = RankLost | EpochBroke | OrderDone | OrderFailed | EpochInStep | ReplacementLoaded | StageOverdue


@dataclass(frozen=True, slots=True)
class Prepare:
    """Have a rank read what the epoch gives it; where `leaves`, it leaves the present one at once."""

    rank: RankId
    epoch: int
    leaves: bool


@dataclass(frozen=True, slots=True)
class Join:
    """Have a rank form the epoch with its other members."""

    rank: RankId
    epoch: int


@dataclass(frozen=True, slots=True)
class Grant:
    """Give the members of an epoch leases of it from now on."""

    epoch: int
    members: Members


@dataclass(frozen=True, slots=True)
class Replace:
    """End a lost rank for good, tell those who wait for it, and start another in its place."""

    rank: RankId


@dataclass(frozen=True, slots=True)
class GiveUp:
    """Have every rank end its requests, for the group is of no further use."""

    reason: str


Order = Prepare | Join | Grant | Replace | GiveUp


Decision = tuple["Recovery", tuple[Order, ...]]


@dataclass(frozen=True, slots=True)
class Recovery:
    """Where a group is.

    Attributes:
        min_members: With fewer, no epoch is formed.
        stage: What is waited for.
        epoch: The newest that was issued.
        members: Of that epoch.
        awaited: Those of them that have not yet done the order of the stage.
        granted: The epoch whose members hold leases; 0 while none does.
        granted_members: Of that epoch, or of the last one granted.
        starting: Replacements that load.
        standby: Replacements that have loaded.
        num_failed: Epochs issued since one was in step.
        heals: Whether it forms another epoch at all when one breaks.
    """

    min_members: int
    stage: Stage
    epoch: int
    members: Members
    awaited: Members = frozenset()
    granted: int = 0
    granted_members: Members = frozenset()
    starting: Members = frozenset()
    standby: Members = frozenset()
    num_failed: int = 0
    heals: bool = True

    @classmethod
    def of(cls, num_ranks: int, min_members: int, *, heals: bool = True) -> Recovery:
        """Return the state of a group whose ranks have formed their first epoch."""
        members = frozenset(RankId(number) for number in range(num_ranks))
        first = cls(min_members, Stage.SERVING, FIRST_EPOCH, members, heals=heals)
        return replace(first, granted=FIRST_EPOCH, granted_members=members)

    def after(self, event: Event) -> Decision:
        """Return the state after an event and the orders it leads to. What is out of date changes nothing."""
        if self.stage is Stage.GIVEN_UP:
            return self, ()
        if isinstance(event, RankLost):
            return self._lose(event.rank)
        if isinstance(event, ReplacementLoaded):
            return self._stand_by(event.rank)
        if isinstance(event, EpochBroke):
            return self._note_broken(event.epoch)
        if isinstance(event, EpochInStep):
            return self._note_in_step(event.epoch)
        return (
            self._note_answer(event) if (event.epoch, event.stage) == (self.epoch, self.stage) else (self, ())
        )

    @property
    def _newcomers(self) -> Members:
        return self.members - self.granted_members

    def _lose(self, rank: RankId) -> Decision:
        """Replace a rank; what it was a member of, or was to be, is formed anew without it."""
        present = self.granted_members if self.granted else frozenset()
        if rank not in self.members | present | self.starting | self.standby:
            return self, ()
        rest = replace(self, standby=self.standby - {rank}, starting=(self.starting - {rank}) | {rank.next()})
        if rank in present:
            return rest._heal(self.granted_members - {rank}, Replace(rank))
        if self.granted and rank in self.members:
            return rest._drop_plan(rank), (Replace(rank),)
        if rank in self.members:
            return rest._heal(self.members - {rank}, Replace(rank))
        return rest, (Replace(rank),)

    def _stand_by(self, rank: RankId) -> Decision:
        if rank not in self.starting:
            return self, ()
        return replace(self, starting=self.starting - {rank}, standby=self.standby | {rank})._take_in()

    def _drop_plan(self, lost: RankId) -> Recovery:
        """Go on in the present epoch, which nobody has left; the other newcomers have another try."""
        return replace(
            self,
            stage=Stage.SERVING,
            members=self.granted_members,
            awaited=frozenset(),
            standby=(self.standby | self._newcomers) - {lost},
        )

    def _take_in(self) -> Decision:
        """Issue an epoch with those that stand by, once the present one is in step."""
        if self.stage is not Stage.SERVING or not self.standby or self.num_failed:
            return self, ()
        return replace(self, standby=frozenset())._issue(self.members | self.standby, leaves=False)

    def _note_broken(self, epoch: int) -> Decision:
        if epoch == self.granted:
            return self._heal(self.granted_members)
        is_forming = self.stage is Stage.JOINING and epoch == self.epoch
        return self._heal(self.members) if is_forming else (self, ())

    def _note_in_step(self, epoch: int) -> Decision:
        return replace(self, num_failed=0)._take_in() if epoch == self.granted else (self, ())

    def _note_answer(self, event: OrderDone | OrderFailed | StageOverdue) -> Decision:
        if isinstance(event, StageOverdue):
            return self._note_overdue()
        if event.rank not in self.awaited:
            return self, ()
        return self._note_done(event.rank) if isinstance(event, OrderDone) else self._note_failed(event.rank)

    def _heal(self, members: Members, *before: Order) -> Decision:
        """Issue the epoch of `members`, who leave the one they are in. Newcomers wait until it is in step."""
        if not self.heals:
            return self._give_up("an epoch broke, and parallel.healing is restart")
        waiting = self.standby | (self._newcomers if self.granted else frozenset())
        return replace(self, granted=0, standby=waiting - members)._issue(members, *before, leaves=True)

    def _issue(self, members: Members, *before: Order, leaves: bool) -> Decision:
        if len(members) < self.min_members:
            return self._give_up(f"{len(members)} ranks are left where {self.min_members} are needed")
        if self.num_failed >= MAX_FAILED_EPOCHS:
            return self._give_up(f"{self.num_failed} epochs in a row never came into step")
        epoch = self.epoch + 1
        after = replace(
            self,
            stage=Stage.PREPARING,
            epoch=epoch,
            members=members,
            awaited=members,
            num_failed=self.num_failed + 1,
        )
        return after, (*before, *(Prepare(rank, epoch, leaves) for rank in sorted(members)))

    def _note_done(self, rank: RankId) -> Decision:
        after = replace(self, awaited=self.awaited - {rank})
        if after.awaited:
            return after, ()
        if self.stage is Stage.PREPARING:
            joining = replace(after, stage=Stage.JOINING, awaited=self.members, granted=0)
            return joining, tuple(Join(rank, self.epoch) for rank in sorted(self.members))
        serving = replace(after, stage=Stage.SERVING, granted=self.epoch, granted_members=self.members)
        return serving, (Grant(self.epoch, self.members),)

    def _note_failed(self, rank: RankId) -> Decision:
        """Try without the newcomers, if there are any; who was there before has to manage by itself."""
        if self.stage is Stage.JOINING:
            rest, orders = self._reject_newcomers()
            return rest._heal(self.members & self.granted_members, *orders)
        if rank in self._newcomers:
            return self._lose(rank)
        return self._give_up(f"rank {rank} could not read its experts")

    def _note_overdue(self) -> Decision:
        if self.granted:
            return self._reject_newcomers()
        return self._give_up(f"{self.stage.name.lower()} epoch {self.epoch} takes too long")

    def _reject_newcomers(self) -> Decision:
        """Replace those who were not yet granted anything; the plan that they were part of is dropped."""
        rejected = self._newcomers
        rest = replace(
            self,
            stage=Stage.SERVING if self.granted else self.stage,
            members=self.members - rejected,
            awaited=self.awaited - rejected if not self.granted else frozenset(),
            starting=self.starting | {rank.next() for rank in rejected},
        )
        return rest, tuple(map(Replace, sorted(rejected)))

    def _give_up(self, reason: str) -> Decision:
        nobody: Members = frozenset()
        ended = replace(
            self, stage=Stage.GIVEN_UP, awaited=nobody, granted=0, starting=nobody, standby=nobody
        )
        return ended, (GiveUp(reason),)
