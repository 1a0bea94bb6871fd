"""Collectives of a group on several hosts with several ranks each: two wires behind one interface.

Ranks of this host exchange through shared memory; ranks of other hosts through the network, where nothing
is sent to ranks of the same host.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from gptoss_ray.errors import GroupBrokenError
from gptoss_ray.parallel.collectives import Collectives


class MixedCollectives:
    """One rank's side. After an error both wires are closed, so that the loss spreads to every rank.

    Args:
        local: Between the ranks of this host, numbered in the order of `local_ranks`.
        remote: Between all ranks; its `all_reduce_max` is called by the first rank of every host only.
        local_ranks: The ranks of this host in ascending order, this one included.
    """

    def __init__(self, local: Collectives, remote: Collectives, local_ranks: Sequence[int]) -> None:
        self.rank = remote.rank
        self.world_size = remote.world_size
        self._local = local
        self._remote = remote
        self._local_ranks = tuple(local_ranks)
        self._is_leader = self.rank == self._local_ranks[0]

    @property
    def timeout_s(self) -> float:
        """A rank later than this is late."""
        return self._remote.timeout_s

    @timeout_s.setter
    def timeout_s(self, seconds: float) -> None:
        self._local.timeout_s = self._remote.timeout_s = seconds

    def all_to_all(
        self,
        send: Tensor,
        send_counts: Sequence[int],
        recv_counts: Sequence[int],
        out: Tensor | None = None,
    ) -> Tensor:
        """See `Collectives`."""
        here = self._local_ranks
        send_counts_here = [send_counts[rank] for rank in here]
        recv_counts_here = [recv_counts[rank] for rank in here]
        recv_counts_elsewhere = self._without_here(recv_counts)
        parts = send.split_with_sizes(list(send_counts))
        to_here = torch.cat([parts[rank] for rank in here])
        to_elsewhere = torch.cat([part for rank, part in enumerate(parts) if rank not in here])
        with self._breaking_both():
            from_here = self._local.all_to_all(to_here, send_counts_here, recv_counts_here)
            from_elsewhere = self._remote.all_to_all(
                to_elsewhere, self._without_here(send_counts), recv_counts_elsewhere
            )
        arrived = list(from_elsewhere.split_with_sizes(recv_counts_elsewhere))
        for rank, part in zip(here, from_here.split_with_sizes(recv_counts_here), strict=True):
            arrived[rank] = part
        return torch.cat(arrived, out=out)

    def all_reduce_max(self, values: Sequence[int]) -> list[int]:
        """Reduce on the host, between the hosts' first ranks, and on the host again to tell the others."""
        with self._breaking_both():
            largest = self._local.all_reduce_max(values)
            if self._is_leader:
                largest = self._remote.all_reduce_max(largest)
            return self._local.all_reduce_max(largest)

    def close(self) -> None:
        """See `Collectives`."""
        self._local.close()
        self._remote.close()

    def _without_here(self, counts: Sequence[int]) -> list[int]:
        return [0 if rank in self._local_ranks else count for rank, count in enumerate(counts)]

    @contextmanager
    def _breaking_both(self) -> Iterator[None]:
        try:
            yield
        except GroupBrokenError:
            self.close()
            raise
