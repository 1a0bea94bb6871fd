"""A rank's place in its group: which epoch it is in, and the collectives of that epoch.

What works in lockstep holds the link rather than the collectives, so that a later epoch, with other ranks
and other wires, can be joined under it.
"""

from __future__ import annotations

import threading

from gptoss_ray.config import ParallelConfig
from gptoss_ray.errors import GroupBrokenError
from gptoss_ray.parallel.collectives import Collectives
from gptoss_ray.parallel.deepspeed_collectives import DeepspeedCollectives
from gptoss_ray.parallel.membership import GroupMembership
from gptoss_ray.parallel.mixed_collectives import MixedCollectives
from gptoss_ray.parallel.shared_memory import SharedMemoryCollectives
from gptoss_ray.parallel.step_deadline import FIRST_DEADLINE_S
from gptoss_ray.parallel.streamed_all_to_all import StreamedAllToAll
from gptoss_ray.parallel.symmetric_memory import (
    SymmetricAllToAll,
    map_memory,
    memory_bytes,
    place_bytes_of,
)


class GroupLink:
    """Joins and leaves epochs of one group. `leave` may be called from any thread.

    Args:
        number: Of this process in its group, from 0; the same in all epochs.
        config: Wires, deadlines and the number of ranks.
    """

    def __init__(self, number: int, config: ParallelConfig) -> None:
        self.number = number
        self._config = config
        self._membership: GroupMembership | None = None
        self._collectives: Collectives | None = None
        self._streamed: StreamedAllToAll | None = None
        self._changing = threading.Lock()
        self._is_unwanted = threading.Event()

    @property
    def rank(self) -> int:
        """Of this process in the latest epoch joined; its number before the first."""
        return self._membership.rank_of(self.number) if self._membership is not None else self.number

    @property
    def epoch(self) -> int:
        """The latest epoch joined, also after it was left; 0 before the first."""
        return self._membership.epoch if self._membership is not None else 0

    @property
    def world_size(self) -> int:
        """Number of ranks in the latest epoch joined; the configured one before the first."""
        return self._membership.world_size if self._membership is not None else self._config.num_ranks

    @property
    def collectives(self) -> Collectives:
        """The collectives of the current epoch.

        Raises:
            GroupBrokenError: No epoch was joined since the last `leave`.
        """
        collectives = self._collectives
        if collectives is None:
            raise GroupBrokenError(f"rank {self.number} is in no group now (last epoch: {self.epoch})")
        return collectives

    @property
    def is_streamed(self) -> bool:
        """Whether a card does all-to-alls in the order of its own work."""
        return self._config.device == "cuda"

    @property
    def streamed(self) -> StreamedAllToAll:
        """Those of the current epoch, where `is_streamed`.

        Raises:
            GroupBrokenError: No epoch was joined since the last `leave`.
        """
        streamed = self._streamed
        if streamed is None:
            raise GroupBrokenError(f"rank {self.number} is in no group now (last epoch: {self.epoch})")
        return streamed

    def join(self, membership: GroupMembership, timeout_s: float | None = None) -> None:
        """Leave the current epoch and form the new one with its other ranks, which join at the same time.

        Args:
            membership: Of the new epoch.
            timeout_s: How long the others have to come; None: as long as a collective may take at first.

        Raises:
            GroupBrokenError: The epoch is not later than the last one, its other ranks did not come in time,
                or `leave` was called meanwhile.
            ConfigError: The cards cannot do what `parallel.collectives` asks for.
        """
        with self._changing:
            self._is_unwanted.clear()
            if membership.epoch <= self.epoch:
                raise GroupBrokenError(
                    f"rank {self.number} was told to join epoch {membership.epoch} "
                    f"after epoch {self.epoch}; epochs only grow"
                )
            self._close()
            rank = membership.rank_of(self.number)
            collectives = form_collectives(membership, rank, self._config, timeout_s, self._is_unwanted)
            try:
                self._streamed = form_streamed(collectives, self._config)
            except BaseException:
                collectives.close()
                raise
            self._collectives = collectives
            self._membership = membership

    def leave(self) -> None:
        """Close the current epoch's collectives, so that the other ranks notice; harmless when in none.

        A `join` under way in another thread is called off, or waited for where ranks meet over the network.
        """
        self._is_unwanted.set()
        with self._changing:
            self._close()

    def _close(self) -> None:
        collectives, self._collectives, self._streamed = self._collectives, None, None
        if collectives is not None:
            collectives.close()


def form_collectives(
    membership: GroupMembership,
    rank: int,
    config: ParallelConfig,
    timeout_s: float | None = None,
    is_unwanted: threading.Event | None = None,
) -> Collectives:
    """Form the group of a membership over the fastest wires that its ranks share.

    CPU ranks of one host use shared memory, unless the configuration forbids it; ranks of several hosts,
    and ranks with cards, use deepspeed.comm.

    Raises:
        GroupBrokenError: The other ranks did not come in time.
    """
    assert 0 <= rank < membership.world_size
    first_s = config.collective_timeout_s or FIRST_DEADLINE_S
    collectives = _form(membership, rank, config, timeout_s or first_s, is_unwanted)
    collectives.timeout_s = first_s
    return collectives


def form_streamed(collectives: Collectives, config: ParallelConfig) -> StreamedAllToAll | None:
    """Return what leaves all-to-alls of a group to its ranks' cards; collective. None: they have none.

    Raises:
        ConfigError: The cards cannot share memory, as the configuration wants it.
    """
    if config.device == "cpu":
        return None
    assert isinstance(collectives, DeepspeedCollectives), "cards meet over NCCL"
    if config.collectives == "auto":
        return collectives.streamed
    num_ranks, num_bytes = collectives.world_size, config.max_padded_bytes
    memory = map_memory(memory_bytes(num_bytes, num_ranks))
    return SymmetricAllToAll(memory, place_bytes_of(num_bytes, num_ranks), collectives.streamed)


def _form(
    membership: GroupMembership,
    rank: int,
    config: ParallelConfig,
    timeout_s: float,
    is_unwanted: threading.Event | None,
) -> Collectives:
    here = membership.ranks_on_host_of(rank)
    num_hosts = len(set(membership.hosts))
    shares_a_host = num_hosts < membership.world_size or membership.world_size == 1
    if not (config.shared_memory and shares_a_host and config.device == "cpu"):
        return _form_remote(membership, rank, config, timeout_s, reducing_ranks=None)
    if num_hosts == 1:
        return _form_local(membership, rank, timeout_s, is_unwanted)
    local = _form_local(membership, rank, timeout_s, is_unwanted)
    try:
        leaders = sorted({membership.ranks_on_host_of(other)[0] for other in range(membership.world_size)})
        remote = _form_remote(membership, rank, config, timeout_s, reducing_ranks=leaders)
    except BaseException:
        local.close()
        raise
    return MixedCollectives(local, remote, here)


def _form_local(
    membership: GroupMembership, rank: int, timeout_s: float, is_unwanted: threading.Event | None
) -> SharedMemoryCollectives:
    here = membership.ranks_on_host_of(rank)
    # The first rank of a host stands for the host: a host's own id may hold any characters.
    name = f"{membership.group_id}-{membership.epoch}-{here[0]}"
    return SharedMemoryCollectives(
        name, here.index(rank), len(here), timeout_s=timeout_s, is_unwanted=is_unwanted
    )


def _form_remote(
    membership: GroupMembership,
    rank: int,
    config: ParallelConfig,
    timeout_s: float,
    *,
    reducing_ranks: list[int] | None,
) -> DeepspeedCollectives:
    return DeepspeedCollectives(
        membership,
        rank,
        device=config.device,
        timeout_s=timeout_s,
        reducing_ranks=reducing_ranks,
    )
