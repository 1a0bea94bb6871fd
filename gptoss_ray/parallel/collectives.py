"""What the ranks of a group do together: the seam between lockstep and the wire.

Every rank of a group calls the same collectives in the same order. A collective that cannot complete
raises GroupBrokenError on every rank that is left; after that the object is of no further use.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:  # the replica's process knows the protocol, and must not pay for torch
    from torch import Tensor


class AllToAll(Protocol):
    """The collective by which tokens travel."""

    def all_to_all(
        self,
        send: Tensor,
        send_counts: Sequence[int],
        recv_counts: Sequence[int],
        out: Tensor | None = None,
    ) -> Tensor:
        """Exchange rows: send [sum(send_counts), ...] holds the rows for rank 0, then for rank 1, ...

        Returns:
            [sum(recv_counts), ...] of the same dtype: the rows from rank 0, then from rank 1, ...; in `out`
            where that is given.

        Raises:
            GroupBrokenError: A rank is lost or later than the deadline.
        """


class Collectives(AllToAll, Protocol):
    """One rank's side of a group's collectives.

    Attributes:
        rank: Of this process, from 0.
        world_size: Number of ranks.
        timeout_s: A rank later than this is late; may be set anew before each collective.
    """

    rank: int
    world_size: int
    timeout_s: float

    def all_reduce_max(self, values: Sequence[int]) -> list[int]:
        """Return the largest of all ranks' values (64-bit integers), place by place.

        Raises:
            GroupBrokenError: A rank is lost or later than the deadline.
        """

    def close(self) -> None:
        """Free what is held; a collective that still waits in another thread raises GroupBrokenError."""
