"""LeaseRenewal: keeps calling the ranks of a group, so that they may emit, and notices which are silent."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass

from gptoss_ray.errors import RankDiedError
from gptoss_ray.ranks.rank_member import RankPulse
from gptoss_ray.ranks.recovery import Members, RankId

CALLS_PER_LEASE = 5

Renew = Callable[[RankId, int, int, int], Awaitable[RankPulse]]
"""(rank, call, heard, epoch) -> its pulse; see `EngineRank.renew_lease`."""


@dataclass
class _Renewals:
    """What was said to one rank and heard from it."""

    num_calls: int = 0
    heard: int = 0
    epoch: int = 0
    num_silent_ticks: int = 0
    task: asyncio.Task[None] | None = None


class LeaseRenewal:
    """Calls every rank a few times per lease, one call at a time for each rank.

    Silence is counted in ticks of this object's own clock, each at least a fifth of a lease, so a rank found
    silent has no lease any more (`rank_epoch.py`). Where nobody is heard, the fault may be here: then nobody
    is blamed.

    Args:
        renew: Calls a rank.
        lease_s: A rank silent for so long is lost.
        note_pulse: Told what each rank answers.
        note_lost: Told of a rank that is silent or dead; it is called no more.
    """

    def __init__(
        self,
        renew: Renew,
        lease_s: float,
        note_pulse: Callable[[RankPulse], None],
        note_lost: Callable[[RankId], None],
    ) -> None:
        self._renew = renew
        self._lease_s = lease_s
        self._note_pulse = note_pulse
        self._note_lost = note_lost
        self._ranks: dict[RankId, _Renewals] = {}
        self._granted = 0
        self._members: Members = frozenset()

    def follow(self, ranks: Iterable[RankId]) -> None:
        """Call these ranks from now on, and no others."""
        wanted = set(ranks)
        for rank in set(self._ranks) - wanted:
            self._forget(rank)
        for rank in wanted - set(self._ranks):
            self._ranks[rank] = _Renewals()
            self._call(rank)

    def grant(self, epoch: int, members: Members) -> None:
        """Renew leases of this epoch for its members from now on; 0: for nobody."""
        self._granted, self._members = epoch, members
        for rank in set(members) & set(self._ranks):
            if self._ranks[rank].task is None:
                self._call(rank)

    async def run(self) -> None:
        """Call the ranks until cancelled."""
        try:
            while True:
                await asyncio.sleep(self._lease_s / CALLS_PER_LEASE)
                self._tick()
        finally:
            for rank in list(self._ranks):
                self._forget(rank)

    def _tick(self) -> None:
        for renewals in self._ranks.values():
            renewals.num_silent_ticks += renewals.heard < renewals.num_calls
        hears_some = any(renewals.num_silent_ticks <= 1 for renewals in self._ranks.values())
        for rank, renewals in list(self._ranks.items()):
            if renewals.num_silent_ticks > CALLS_PER_LEASE and hears_some:
                self._lose(rank)
            elif renewals.task is None:
                self._call(rank)

    def _call(self, rank: RankId) -> None:
        renewals = self._ranks[rank]
        renewals.num_calls += 1
        renewals.epoch = self._granted if rank in self._members else 0
        renewals.task = asyncio.create_task(self._hear(rank, renewals))

    async def _hear(self, rank: RankId, renewals: _Renewals) -> None:
        try:
            pulse = await self._renew(rank, renewals.num_calls, renewals.heard, renewals.epoch)
        except RankDiedError:
            self._lose(rank)
            return
        except Exception:  # not to be reached now: silent, if the next calls fail too
            renewals.task = None
            return
        is_first = renewals.heard == 0
        renewals.heard, renewals.num_silent_ticks, renewals.task = renewals.num_calls, 0, None
        self._note_pulse(pulse)
        if self._ranks.get(rank) is renewals and (is_first or self._is_behind(rank, renewals)):
            self._call(rank)

    def _is_behind(self, rank: RankId, renewals: _Renewals) -> bool:
        """Tell whether another epoch was granted to the rank since it was last called."""
        return rank in self._members and renewals.epoch != self._granted

    def _lose(self, rank: RankId) -> None:
        if rank in self._ranks:
            self._forget(rank)
            self._note_lost(rank)

    def _forget(self, rank: RankId) -> None:
        task = self._ranks.pop(rank).task
        if task is not None and task is not asyncio.current_task():
            task.cancel()
