"""RankMember: a rank's side of its group's epochs: gets ready for them, joins them, holds their leases."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gptoss_ray.errors import GroupBrokenError
from gptoss_ray.ranks.epoch_change import EpochChange
from gptoss_ray.ranks.rank_epoch import RankEpoch
from gptoss_ray.ranks.step_loop import StepLoop, SteppedEngine

if TYPE_CHECKING:
    from gptoss_ray.model.transformer import Transformer
    from gptoss_ray.parallel.group_link import GroupLink
    from gptoss_ray.parallel.membership import GroupMembership

logger = logging.getLogger(__name__)

JOIN_TIMEOUT_S = 10.0
"""How long a rank waits for the others of an epoch, who are all told to join it at the same time."""


@dataclass(frozen=True, slots=True)
class RankPulse:
    """A rank's answer to a renewal of its lease: the epoch it is in, and whether it is in step there."""

    epoch: int
    is_in_step: bool


class RankMember:
    """Belongs to the event loop of its rank, as `StepLoop` belongs to its thread.

    Args:
        checkpoint: What the rank loads experts from.
        link: To the other ranks.
        engine: Of the rank.
        clock: Of the leases; goes on while the process is stopped.
    """

    def __init__(
        self,
        checkpoint: str,
        link: GroupLink,
        engine: SteppedEngine,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._checkpoint = checkpoint
        self._link = link
        self._engine = engine
        self._clock = clock
        self._state = RankEpoch()
        self._changed = asyncio.Event()
        self._broken = 0
        self._prepared: tuple[EpochChange, Transformer] | None = None

    @property
    def epoch(self) -> int:
        """The epoch joined last; 0 before the first."""
        return self._state.joined

    @property
    def linked_epoch(self) -> int:
        """The epoch whose collectives were used last; may be read in any thread."""
        return self._link.epoch

    async def join_first(self, membership: GroupMembership) -> None:
        """Form the first epoch of the group, before any step.

        Raises:
            GroupBrokenError: Another rank did not come.
        """
        self._state = self._state.prepare(membership.epoch)
        await asyncio.to_thread(self._link.join, membership)
        self._state = self._state.join(membership.epoch)

    async def prepare(self, change: EpochChange) -> None:
        """Read the experts of an epoch; beside the steps of the present one, unless that is over.

        Raises:
            GroupBrokenError: The order is out of date.
            CheckpointError: The checkpoint is no longer what was loaded.
        """
        epoch = change.membership.epoch
        self._state = self._state.prepare(epoch)
        if change.leaves:
            await asyncio.to_thread(self._link.leave)
        transformer = await asyncio.to_thread(self._with_experts_of, change)
        if epoch == self._state.prepared:
            self._prepared = change, transformer
        logger.info("epoch_prepared epoch=%d rank=%d leaves=%s", epoch, self._link.number, change.leaves)

    async def join(self, epoch: int, loop: StepLoop) -> None:
        """Leave the present epoch, and go on in another with the ranks that join it at the same time.

        Raises:
            GroupBrokenError: The order is out of date, or another rank did not come.
            UnavailableError: The rank has ended its requests already.
        """
        self._state.join(epoch)
        assert self._prepared is not None, "what is prepared last is kept"
        change, transformer = self._prepared

        def change_epoch() -> None:
            self._state.join(epoch)  # of later orders, too
            self._engine.drop_steps()
            self._link.join(change.membership, JOIN_TIMEOUT_S)
            self._engine.change_epoch(change.version, transformer)

        await asyncio.wrap_future(loop.change_epoch(change_epoch))
        try:
            self._state = self._state.join(epoch)
        except GroupBrokenError:  # told of a later one meanwhile
            await asyncio.to_thread(self._link.leave)
            raise
        self._prepared = None
        self._note_change()
        logger.info("epoch_joined epoch=%d rank=%d", epoch, self._link.number)

    def renew(self, call: int, heard: int, epoch: int, lease_s: float) -> None:
        """Take a call of the replica; see `RankEpoch.renew`."""
        self._state = self._state.renew(call, heard, epoch, self._clock(), lease_s)
        self._note_change()

    async def covered(self) -> None:
        """Return as soon as the rank holds a lease of its epoch: only then may anything leave it."""
        while not self._state.may_emit(self._clock()):
            await self._changed.wait()

    def note_broken(self, epoch: int) -> None:
        """Note that the collectives of an epoch no longer work."""
        self._broken = max(self._broken, epoch)
        self._note_change()

    async def wait_broken(self, epoch: int) -> None:
        """Return once an epoch is over for this rank: broken, or left for a later one."""
        while self._broken < epoch and self._state.joined <= epoch:
            await self._changed.wait()

    def _with_experts_of(self, change: EpochChange) -> Transformer:
        from gptoss_ray.ranks.rank_experts import with_placements  # noqa: PLC0415

        membership = change.membership
        # What an epoch that never came has read is kept.
        present = self._engine.transformer if self._prepared is None else self._prepared[1]
        rank = membership.rank_of(self._link.number)
        return with_placements(present, self._checkpoint, change.placements, rank, membership.hosts)

    def _note_change(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()
