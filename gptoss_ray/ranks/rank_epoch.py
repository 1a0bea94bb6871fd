"""Which epoch a rank is in, which orders it takes, and whether it may emit. Pure.

A rank does what its replica orders, in epochs that only grow; an order that is out of date, or comes twice,
is refused. What it emits has to be covered by a lease of the epoch it is in.

A lease counts from the moment at which the rank answered a call, and is granted by the next call, which
says that this answer was heard. So however late a message comes, no lease outlasts `lease_s` after the
replica last heard of the rank, and a rank that slept finds its lease over.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from gptoss_ray.errors import GroupBrokenError


@dataclass(frozen=True, slots=True)
class RankEpoch:
    """A rank's own view.

    Attributes:
        joined: The epoch it joined last; 0 before the first.
        prepared: The newest epoch whose experts it has been told to read.
        lease_epoch: The epoch of its lease.
        lease_until: When the lease ends, on this rank's own clock.
        answered: Number of the newest call it has answered, and when.
    """

    joined: int = 0
    prepared: int = 0
    lease_epoch: int = 0
    lease_until: float = 0.0
    answered: tuple[int, float] = (0, 0.0)

    def prepare(self, epoch: int) -> RankEpoch:
        """Take the order to read the experts of an epoch.

        Raises:
            GroupBrokenError: A later one came before, or the epoch is over.
        """
        if epoch <= self.joined or epoch < self.prepared:
            raise GroupBrokenError(f"epoch {epoch} comes late, after {max(self.joined, self.prepared)}")
        return replace(self, prepared=epoch)

    def join(self, epoch: int) -> RankEpoch:
        """Take the order to join an epoch.

        Raises:
            GroupBrokenError: It is not the one prepared last, or was joined before.
        """
        if epoch != self.prepared or epoch <= self.joined:
            raise GroupBrokenError(
                f"told to join epoch {epoch}, but epoch {self.prepared} is prepared and {self.joined} joined"
            )
        return replace(self, joined=epoch)

    def renew(self, call: int, heard: int, epoch: int, now: float, lease_s: float) -> RankEpoch:
        """Take a call of the replica; it renews the lease if it grants the epoch that this rank is in.

        Args:
            call: Number of the call, which is answered now; an older one changes nothing.
            heard: Number of the newest answer that the replica has heard.
            epoch: The epoch granted; 0 for none.
            now: The time here.
            lease_s: How long a lease lasts.
        """
        last_call, answered_at = self.answered
        if call <= last_call:
            return self
        renewed = replace(self, answered=(call, now))
        if epoch == 0 or epoch != self.joined or heard != last_call:
            return renewed
        return replace(renewed, lease_epoch=epoch, lease_until=answered_at + lease_s)

    def may_emit(self, now: float) -> bool:
        """Tell whether the rank holds a lease of the epoch that it is in."""
        return self.joined == self.lease_epoch and now < self.lease_until
