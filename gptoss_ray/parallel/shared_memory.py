"""Collectives between the ranks of one host through memory they share.

::

    watch      world_size lines                  who is there, who left (peer_watch.py)
    slots      [2, world_size] x (number, values)  what each rank brought to a reduction
    counters   [source, target] x 2 lines        bytes written to and read from a mailbox
    mailboxes  [source, target] x mailbox_bytes  rows on their way (mailbox.py)

A reduction writes this rank's slot and reads all of them. Two sets of slots suffice, by parity of the
reduction's number: who writes slot n + 2 has finished n + 1, hence every rank has begun n + 1, hence has
finished n, and reads its slots no more.
"""

from __future__ import annotations

import ctypes
import math
import mmap
import platform
import sys
import threading
from array import array
from collections.abc import Callable, Sequence
from typing import TypeVar

from torch import Tensor

from gptoss_ray.errors import ConfigError, GroupBrokenError
from gptoss_ray.parallel.mailbox import Mailbox
from gptoss_ray.parallel.peer_watch import LINE_WORDS, PeerWatch, Wait
from gptoss_ray.parallel.shared_region import Patience, share_memory

Result = TypeVar("Result")

_WORD_BYTES = 8
_SLOT_VALUES = 63
_SLOT_WORDS = 1 + _SLOT_VALUES

# How long a rank yields before it sleeps. Inside a step, peers are late by the difference of their work, and
# a sleep too long is paid in every layer; between steps, an idle group must leave the cores alone.
_EXCHANGE_YIELD_S = 2e-3
_REDUCTION_YIELD_S = 2e-4


class SharedMemoryCollectives:
    """One rank's side of a group on one host; see `Collectives`.

    Its tensors are on the CPU. Calls come from one thread at a time; `close` may come from another.

    Args:
        name: Unique for group, epoch and host.
        rank: Of this process, from 0.
        world_size: Number of ranks.
        timeout_s: A rank later than this is lost.
        mailbox_bytes: Room for rows on their way from one rank to another; more rows go in pieces.
        is_unwanted: Set by another thread to call off what is being formed.

    Raises:
        ConfigError: This machine does not keep stores in order, or lets no process watch another.
        GroupBrokenError: A rank does not come in time.
    """

    def __init__(
        self,
        name: str,
        rank: int,
        world_size: int,
        *,
        timeout_s: float,
        mailbox_bytes: int = 1 << 20,
        is_unwanted: threading.Event | None = None,
    ) -> None:
        require_ordered_stores()
        self.rank = rank
        self.world_size = world_size
        slots_at = world_size * LINE_WORDS
        counters_at = slots_at + 2 * world_size * _SLOT_WORDS
        mailboxes_at = _round_up((counters_at + world_size**2 * 2 * LINE_WORDS) * _WORD_BYTES)
        stride = _round_up(mailbox_bytes)
        num_bytes = mailboxes_at + world_size**2 * stride
        self._memory = share_memory(name, rank, world_size, num_bytes, Patience(timeout_s, is_unwanted))
        self._words = memoryview(self._memory).cast("q")
        address = ctypes.addressof(ctypes.c_char.from_buffer(self._memory))

        def mailbox(source: int, target: int) -> Mailbox:
            pair = source * world_size + target
            counters = counters_at + pair * 2 * LINE_WORDS
            ring = address + mailboxes_at + pair * stride
            return Mailbox(self._words, counters, counters + LINE_WORDS, ring, mailbox_bytes)

        peers = [peer for peer in range(world_size) if peer != rank]
        self._outgoing = {peer: mailbox(rank, peer) for peer in peers}
        self._incoming = {peer: mailbox(peer, rank) for peer in peers}
        self._slots = [
            [slots_at + (parity * world_size + slot) * _SLOT_WORDS for slot in range(world_size)]
            for parity in range(2)
        ]
        self._num_reductions = 0
        self._failure: str | None = None
        self._in_use = threading.Lock()
        self._watch = PeerWatch(self._words, rank, world_size, timeout_s)
        try:
            self._run(self._watch.arrive, is_unwanted)
        except BaseException:
            self.close()
            raise

    @property
    def timeout_s(self) -> float:
        """A rank later than this is late."""
        return self._watch.timeout_s

    @timeout_s.setter
    def timeout_s(self, seconds: float) -> None:
        self._watch.timeout_s = seconds

    def all_to_all(
        self,
        send: Tensor,
        send_counts: Sequence[int],
        recv_counts: Sequence[int],
        out: Tensor | None = None,
    ) -> Tensor:
        """See `Collectives`."""
        return self._run(self._exchange, send, send_counts, recv_counts, out)

    def all_reduce_max(self, values: Sequence[int]) -> list[int]:
        """See `Collectives`."""
        maxima: list[int] = []
        for start in range(0, len(values), _SLOT_VALUES):
            maxima += self._run(self._reduce, values[start : start + _SLOT_VALUES])
        return maxima

    def close(self) -> None:
        """See `Collectives`."""
        self._watch.is_closing = True
        with self._in_use:
            if not self._memory.closed:
                self._failure = self._failure or f"rank {self.rank} was closed"
                self._watch.leave(self.rank)
                self._watch.close()
                self._words.release()
                self._memory.close()

    def _run(self, work: Callable[..., Result], *arguments: object) -> Result:
        """Do one collective; whatever interrupts it breaks the group, for the peers are now ahead."""
        with self._in_use:
            if self._failure is not None:
                raise GroupBrokenError(self._failure)
            try:
                return work(*arguments)
            except BaseException as error:
                self._failure = str(error) or type(error).__name__
                self._watch.leave(self.rank)
                raise

    def _exchange(
        self, send: Tensor, send_counts: Sequence[int], recv_counts: Sequence[int], out: Tensor | None
    ) -> Tensor:
        send = send.contiguous()
        row_shape = send.shape[1:]
        if out is None:
            out = send.new_empty((sum(recv_counts), *row_shape))
        assert send.device.type == "cpu" and sum(send_counts) == len(send)
        assert out.is_contiguous() and out.dtype == send.dtype and out.shape == (sum(recv_counts), *row_shape)
        assert send_counts[self.rank] == recv_counts[self.rank]
        row_bytes = math.prod(row_shape) * send.element_size()
        source, target = send.data_ptr(), out.data_ptr()
        pushes, pulls = [], []
        for peer, (num_sent, num_received) in enumerate(zip(send_counts, recv_counts, strict=True)):
            if peer == self.rank:
                ctypes.memmove(target, source, num_sent * row_bytes)
            else:
                pushes.append(_Transfer(peer, self._outgoing[peer].push, source, num_sent * row_bytes))
                pulls.append(_Transfer(peer, self._incoming[peer].pull, target, num_received * row_bytes))
            source += num_sent * row_bytes
            target += num_received * row_bytes
        self._complete(pushes + pulls)
        return out

    def _complete(self, transfers: list[_Transfer]) -> None:
        """Move what can be moved, in turns, until nothing is left."""
        wait = Wait(self._watch, _EXCHANGE_YIELD_S)
        while True:
            num_moved = sum([transfer.advance() for transfer in transfers])
            transfers = [transfer for transfer in transfers if transfer.num_left]
            if not transfers:
                return
            if num_moved:
                wait.restart()
            else:
                wait.pause([transfer.peer for transfer in transfers])

    def _reduce(self, values: Sequence[int]) -> list[int]:
        self._num_reductions += 1
        number, words = self._num_reductions, self._words
        slots = self._slots[number % 2]
        mine = slots[self.rank]
        words[mine + 1 : mine + 1 + len(values)] = memoryview(array("q", values))
        words[mine] = number
        wait = Wait(self._watch, _REDUCTION_YIELD_S)
        while awaited := [rank for rank, slot in enumerate(slots) if words[slot] < number]:
            wait.pause(awaited)
        return list(map(max, zip(*[words[slot + 1 : slot + 1 + len(values)] for slot in slots], strict=True)))


class _Transfer:
    """Bytes on their way to or from one peer."""

    __slots__ = ("_address", "_move", "num_left", "peer")

    def __init__(self, peer: int, move: Callable[[int, int], int], address: int, num_bytes: int) -> None:
        self.peer = peer
        self.num_left = num_bytes
        self._move = move
        self._address = address

    def advance(self) -> int:
        """Move what can be moved now; returns how many bytes that were."""
        num_moved = self._move(self._address, self.num_left)
        self._address += num_moved
        self.num_left -= num_moved
        return num_moved


def require_ordered_stores() -> None:
    """Refuse machines on which a counter could be seen before the bytes that it announces."""
    if not (sys.platform == "linux" and platform.machine() == "x86_64"):
        raise ConfigError(
            f"parallel.shared_memory needs x86-64 Linux, this is {sys.platform} on {platform.machine()}; "
            "set parallel.shared_memory: false",
            param="parallel.shared_memory",
        )


def _round_up(num_bytes: int) -> int:
    """Return the next multiple of a page."""
    return -(-num_bytes // mmap.PAGESIZE) * mmap.PAGESIZE
