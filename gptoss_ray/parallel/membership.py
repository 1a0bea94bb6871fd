"""Who is in a group: decided by the replica alone, told to every rank."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class GroupMembership:
    """One epoch of a group.

    Attributes:
        group_id: Unique name of the group, of letters, digits, `-` and `_`.
        epoch: Counts memberships of the group from 1; what another epoch sent is refused.
        hosts: For every rank an id of the host it runs on; equal ids share memory.
        store_host: Where the ranks meet to form the group.
        store_port: TCP port there.
        numbers: For every rank its number in the group, ascending. Ranks are counted anew in each epoch,
            numbers stay; empty: rank r has number r.
    """

    group_id: str
    epoch: int
    hosts: tuple[str, ...]
    store_host: str
    store_port: int
    numbers: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        assert not self.numbers or len(self.numbers) == len(self.hosts)

    @property
    def world_size(self) -> int:
        """Number of ranks."""
        return len(self.hosts)

    def rank_of(self, number: int) -> int:
        """Return which rank of this epoch has this number in the group."""
        return self.numbers.index(number) if self.numbers else number

    def ranks_on_host_of(self, rank: int) -> tuple[int, ...]:
        """Return the ranks that share memory with `rank`, itself included."""
        return tuple(other for other, host in enumerate(self.hosts) if host == self.hosts[rank])
