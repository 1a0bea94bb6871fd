"""All-to-alls through memory that the cards of a node share: each rank writes where the others read.

No kernel of NCCL runs: an exchange is a copy to each rank, a barrier on the stream, and a copy of what came.
All of it can be captured. The memory is torch's (`torch.distributed._symmetric_memory` as of 2.13, private by
name). Never run on a GPU.

A barrier waits for a lost rank for ever, and cannot be aborted as NCCL can: the process has to end. So groups
that heal in place cannot use it (`ParallelConfig`).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
import torch.distributed
from torch import Tensor

from gptoss_ray.errors import ConfigError
from gptoss_ray.parallel.streamed_all_to_all import StreamedAllToAll

_NUM_HALVES = 2
_ALIGNMENT = 16
_KEPT: list[Any] = []
"""Memory of this process' groups: to free it torch waits for the card, which may wait for a lost rank."""


class SymmetricMemory(Protocol):
    """One rank's handle on memory that all ranks of a group have mapped; torch's `_SymmetricMemory`."""

    @property
    def rank(self) -> int:
        """Of this process."""
        ...

    @property
    def world_size(self) -> int:
        """Number of ranks."""
        ...

    def get_buffer(
        self, rank: int, sizes: tuple[int, ...], dtype: torch.dtype, storage_offset: int = 0
    ) -> Tensor:
        """Return the memory of a rank, mapped here."""
        ...

    def barrier(self, channel: int = 0, timeout_ms: int = 0) -> None:
        """Have the current stream wait for those of all ranks."""
        ...


class SymmetricAllToAll:
    """A `StreamedAllToAll` of equally many rows to every rank.

    A rank's memory has two halves, which exchanges use in turn, each with a place for what every rank sends.
    Who writes to a half again has met all others since they read it. A step has an even number of exchanges
    (out and back in every layer), so a graph begins with the same half at every replay.

    Args:
        memory: Of the group; `memory_bytes` large.
        place_bytes: See `place_bytes_of`.
        wires: Waits for the stream.
    """

    def __init__(self, memory: SymmetricMemory, place_bytes: int, wires: StreamedAllToAll) -> None:
        self._memory = memory
        self._wires = wires
        self._place_bytes = place_bytes
        shape = (_NUM_HALVES, memory.world_size, place_bytes)
        self._places = [memory.get_buffer(rank, shape, torch.uint8) for rank in range(memory.world_size)]
        self._half = 0

    def all_to_all(
        self,
        send: Tensor,
        send_counts: Sequence[int],
        recv_counts: Sequence[int],
        out: Tensor | None = None,
    ) -> Tensor:
        """See `StreamedAllToAll`; all counts are equal, and both tensors contiguous."""
        num_ranks, rank = self._memory.world_size, self._memory.rank
        assert len({*send_counts, *recv_counts}) == 1, "what is padded goes to all ranks alike"
        received = torch.empty_like(send) if out is None else out
        if send.numel() == 0:
            return received
        parts, arrived = (tensor.view(num_ranks, -1).view(torch.uint8) for tensor in (send, received))
        num_bytes = parts.shape[1]
        assert num_bytes <= self._place_bytes, "an exchange larger than the memory for it"
        half, self._half = self._half, (self._half + 1) % _NUM_HALVES
        for step in range(num_ranks):
            to = (rank + step) % num_ranks  # not all to the same at once
            self._places[to][half, rank, :num_bytes].copy_(parts[to], non_blocking=True)
        self._memory.barrier()
        arrived.copy_(self._places[rank][half, :, :num_bytes], non_blocking=True)
        return received

    def wait(self, is_over: Callable[[], bool]) -> None:
        """See `StreamedAllToAll`."""
        self._wires.wait(is_over)


def place_bytes_of(max_padded_bytes: int, num_ranks: int) -> int:
    """Return the most bytes that a rank sends another in an exchange, rounded up.

    Results are what `max_padded_bytes` limits, of all ranks together; the rows before them take fewer.
    """
    return -(-max_padded_bytes // num_ranks // _ALIGNMENT) * _ALIGNMENT


def memory_bytes(max_padded_bytes: int, num_ranks: int) -> int:
    """Return the bytes of a rank's memory."""
    return _NUM_HALVES * num_ranks * place_bytes_of(max_padded_bytes, num_ranks)


def map_memory(num_bytes: int) -> SymmetricMemory:
    """Allocate memory on this process' card, and map it into all ranks of torch's default group; collective.

    Raises:
        ConfigError: The cards, their driver or this torch cannot do that.
    """
    # Every rank sees its own card alone, so that all are number 0 to torch, which would take them for one.
    os.environ.setdefault("TORCH_SYMM_MEM_ALLOW_OVERLAPPING_DEVICES", "1")
    try:
        import torch.distributed._symmetric_memory as symm_mem  # noqa: PLC0415

        device = torch.device("cuda", torch.cuda.current_device())
        tensor = symm_mem.empty(num_bytes, dtype=torch.uint8, device=device)
        group = torch.distributed.group.WORLD
        assert group is not None, "ranks meet over the network first"
        memory: SymmetricMemory = symm_mem.rendezvous(tensor, group)
    except (ImportError, RuntimeError, AssertionError) as error:
        raise ConfigError(
            "parallel.collectives is 'symmetric_memory', but the cards cannot map each other's memory "
            f"({error}); set it to 'auto'.",
            param="parallel.collectives",
        ) from error
    _KEPT.append((tensor, memory))
    return memory
