"""Waiting for ranks of the same host: patiently, but never for one that is gone.

Every rank has a line in shared memory with its process id and, once it leaves, why. A rank that breaks leaves
too, so that the ranks which wait for it learn within milliseconds whom the group lost first.
"""

from __future__ import annotations

import ctypes
import os
import select
import threading
import time
from collections.abc import Iterable

from gptoss_ray.errors import ConfigError, GroupBrokenError

LINE_WORDS = 16  # 128 bytes: x86 fetches cache lines in pairs
_PROCESS = 0  # process id; 0: not arrived
_LOST = 1  # 0: still here; else 1 + the rank that this one lost, itself if it closed

_SPIN_S = 20e-6
_MAX_SLEEP_S = 2e-3

# Not os.sched_yield: before Python 3.12 that holds the interpreter lock, and with it this process's threads.
_sched_yield = ctypes.CDLL(None).sched_yield


class PeerWatch:
    """What one rank knows of its peers on the host.

    Args:
        words: The shared memory as 64-bit integers; the first `world_size` lines are the watch's.
        rank: Of this process.
        world_size: Number of ranks.
        timeout_s: A rank later than this is lost.
    """

    def __init__(self, words: memoryview, rank: int, world_size: int, timeout_s: float) -> None:
        self.rank = rank
        self.timeout_s = timeout_s
        self.is_closing = False
        self._words = words
        self._peers = [peer for peer in range(world_size) if peer != rank]
        self._processes: dict[int, _Process] = {}

    def arrive(self, is_unwanted: threading.Event | None = None) -> None:
        """Say that this rank is there, and wait until all are.

        Args:
            is_unwanted: Set by another thread to end the wait.

        Raises:
            GroupBrokenError: A rank does not come in time, or nobody waits for them any more.
            ConfigError: The system lets no process watch another.
        """
        self._words[self.rank * LINE_WORDS + _PROCESS] = os.getpid()
        wait = Wait(self, yield_s=0.0)
        while awaited := [peer for peer in self._peers if not self._words[peer * LINE_WORDS + _PROCESS]]:
            self.is_closing = self.is_closing or (is_unwanted is not None and is_unwanted.is_set())
            wait.pause(awaited)
        for peer in self._peers:
            try:
                self._processes[peer] = _Process(self._words[peer * LINE_WORDS + _PROCESS])
            except ProcessLookupError:
                self.leave(peer)
                raise GroupBrokenError(f"the process of rank {peer} ended") from None
            except OSError as error:  # a sandbox may forbid it
                raise ConfigError(
                    f"parallel.shared_memory watches the other ranks' processes, which this system refuses "
                    f"(pidfd_open: {error}); set parallel.shared_memory: false",
                    param="parallel.shared_memory",
                ) from error

    def leave(self, lost_rank: int) -> None:
        """Tell whoever waits for this rank that it will not come, for it lost `lost_rank`."""
        if not self._words[self.rank * LINE_WORDS + _LOST]:
            self._words[self.rank * LINE_WORDS + _LOST] = 1 + lost_rank

    def why_lost(self, peer: int, waited_s: float) -> tuple[int, str] | None:
        """Return the rank to blame and what happened if `peer` will not do its part; else None."""
        lost = self._words[peer * LINE_WORDS + _LOST]
        if lost:
            blamed = lost - 1
            return blamed, f"rank {blamed} left" + (f", says rank {peer}" if blamed != peer else "")
        if peer in self._processes and self._processes[peer].has_ended():
            return peer, f"the process of rank {peer} ended"
        if waited_s > self.timeout_s:
            return peer, f"rank {peer} took no part for {self.timeout_s:g} s"
        return None

    def close(self) -> None:
        """Free the descriptors."""
        for process in self._processes.values():
            process.close()


class Wait:
    """The time that one collective spends waiting: spins, yields for `yield_s`, then sleeps ever longer.

    Sleeps take an eighth of the time waited so far: that much later than its peers, at most, a rank goes on.
    """

    def __init__(self, watch: PeerWatch, yield_s: float) -> None:
        self._watch = watch
        self._yield_s = yield_s
        self.restart()

    def restart(self) -> None:
        """Start anew: something has moved."""
        self._suspects: dict[int, tuple[int, str]] = {}
        self._since = time.perf_counter()

    def pause(self, awaited: Iterable[int]) -> None:
        """Let time pass until the next look at what the awaited ranks have done.

        Raises:
            GroupBrokenError: One of them is lost, or this rank is being closed.
        """
        waited_s = time.perf_counter() - self._since
        if waited_s < _SPIN_S:
            return
        if waited_s < self._yield_s:
            _sched_yield()
            return
        if self._watch.is_closing:
            raise GroupBrokenError(f"rank {self._watch.rank} was closed")
        # A rank may do its part and then leave: it is lost only if the look after finding it gone is in vain.
        for peer in awaited:
            if peer in self._suspects:
                lost_rank, reason = self._suspects[peer]
                self._watch.leave(lost_rank)
                raise GroupBrokenError(f"the group is broken: {reason}")
            if (suspicion := self._watch.why_lost(peer, waited_s)) is not None:
                self._suspects[peer] = suspicion
        if not self._suspects:
            time.sleep(min(waited_s / 8, _MAX_SLEEP_S))


class _Process:
    """Another process, by a descriptor that no later process with the same id can be mistaken for."""

    def __init__(self, process_id: int) -> None:
        self._descriptor = os.pidfd_open(process_id)
        self._poll = select.poll()
        self._poll.register(self._descriptor, select.POLLIN)

    def has_ended(self) -> bool:
        """Tell whether it ended, also if nobody has collected its status yet."""
        return bool(self._poll.poll(0))

    def close(self) -> None:
        os.close(self._descriptor)
