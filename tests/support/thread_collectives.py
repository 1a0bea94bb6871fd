"""Collectives between threads of one process: ranks of a test without processes or wires."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from gptoss_ray.errors import GroupBrokenError
from gptoss_ray.parallel.collectives import Collectives

Result = TypeVar("Result")
_TIMEOUT_S = 30.0


class _Board:
    """What the ranks of one group have put up, and the barrier between putting and taking."""

    def __init__(self, world_size: int) -> None:
        self.barrier = threading.Barrier(world_size)
        self.parts: list[object] = [None] * world_size

    def exchange(self, rank: int, part: object) -> list[object]:
        try:
            self.parts[rank] = part
            self.barrier.wait(_TIMEOUT_S)
            taken = list(self.parts)
            self.barrier.wait(_TIMEOUT_S)
        except threading.BrokenBarrierError:
            raise GroupBrokenError("a rank of the test is lost") from None
        return taken


class ThreadCollectives:
    """One thread's side; `num_calls` counts collectives. Agreements have wires of their own."""

    def __init__(self, rank: int, board: _Board, agreements: _Board, world_size: int) -> None:
        self.rank = rank
        self.world_size = world_size
        self.num_calls = 0
        self.timeout_s = _TIMEOUT_S
        self._board = board
        self._agreements = agreements

    def all_to_all(
        self,
        send: Tensor,
        send_counts: Sequence[int],
        recv_counts: Sequence[int],
        out: Tensor | None = None,
    ) -> Tensor:
        """See `Collectives`."""
        self.num_calls += 1
        assert sum(send_counts) == len(send)
        parts = self._board.exchange(self.rank, [part.clone() for part in send.split(list(send_counts))])
        received = [part[self.rank] for part in parts]  # type: ignore[index]
        assert [len(part) for part in received] == list(recv_counts)
        return torch.cat(received, out=out)

    def all_reduce_max(self, values: Sequence[int]) -> list[int]:
        """See `Collectives`."""
        self.num_calls += 1
        parts = self._agreements.exchange(self.rank, tuple(values))
        return [max(column) for column in zip(*parts, strict=True)]  # type: ignore[call-overload]

    def close(self) -> None:
        """Break what others wait for."""
        self._board.barrier.abort()
        self._agreements.barrier.abort()


class ThreadStream:
    """The same as a `StreamedAllToAll`, for ranks whose device is a `RecordedStream`."""

    def __init__(self, collectives: Collectives) -> None:
        self._collectives = collectives

    def all_to_all(
        self,
        send: Tensor,
        send_counts: Sequence[int],
        recv_counts: Sequence[int],
        out: Tensor | None = None,
    ) -> Tensor:
        """See `StreamedAllToAll`."""
        return self._collectives.all_to_all(send, send_counts, recv_counts, out)

    def wait(self, is_over: Callable[[], bool]) -> None:
        """Have the device work; it has come to the end when it says so."""
        assert is_over()


@dataclass
class ThreadLink:
    """Quacks like `GroupLink`, joined to epoch 1."""

    collectives: Collectives
    epoch: int = 1
    is_streamed: bool = False

    @property
    def streamed(self) -> ThreadStream:
        assert self.is_streamed
        return ThreadStream(self.collectives)

    @property
    def rank(self) -> int:
        return self.collectives.rank

    @property
    def world_size(self) -> int:
        return self.collectives.world_size

    def leave(self) -> None:
        self.collectives.close()


def thread_group(world_size: int) -> list[ThreadCollectives]:
    """Make the sides of a group."""
    boards = _Board(world_size), _Board(world_size)
    return [ThreadCollectives(rank, *boards, world_size) for rank in range(world_size)]


def run_ranks(world_size: int, work: Callable[[ThreadCollectives], Result]) -> list[Result]:
    """Run `work` on every rank at once; a rank that raises breaks the group, and its error is raised."""

    def run(collectives: ThreadCollectives) -> Result:
        try:
            return work(collectives)
        except BaseException:
            collectives.close()
            raise

    group = thread_group(world_size)
    with ThreadPoolExecutor(world_size) as pool:
        futures = [pool.submit(run, collectives) for collectives in group]
        errors = [error for future in futures if (error := future.exception()) is not None]
        for error in sorted(errors, key=lambda error: isinstance(error, GroupBrokenError)):
            raise error
        return [future.result() for future in futures]
