"""One direction between two ranks that share memory: a ring of bytes with one writer and one reader.

The counters say how many bytes were ever written and read. Each has one writer, whose aligned 8-byte store
follows the copy that it announces. x86-64 makes stores visible in order, so who sees the counter sees the
bytes (Intel SDM volume 3, "Memory Ordering" and "Fast-String Operation and Out-of-Order Stores").
"""

from __future__ import annotations

import ctypes

# How many pieces fill the ring: with more than one, the reader takes a piece while the writer adds the next.
_NUM_PIECES = 4


class Mailbox:
    """The ring; `push` belongs to the writing rank, `pull` to the reading one.

    Args:
        words: The shared memory as 64-bit integers.
        written_at: Index in `words` of the bytes ever written.
        read_at: Index in `words` of the bytes ever read.
        address: Of the ring in this process.
        capacity: Bytes of the ring.
    """

    def __init__(self, words: memoryview, written_at: int, read_at: int, address: int, capacity: int) -> None:
        self._words = words
        self._written_at = written_at
        self._read_at = read_at
        self._address = address
        self._capacity = capacity
        self._piece = -(-capacity // _NUM_PIECES)

    def push(self, source: int, num_bytes: int) -> int:
        """Copy up to `num_bytes` from address `source` into the ring; returns how many found room."""
        words, capacity = self._words, self._capacity
        written = words[self._written_at]
        start = written % capacity
        num_bytes = min(num_bytes, words[self._read_at] + capacity - written, capacity - start, self._piece)
        if num_bytes:
            ctypes.memmove(self._address + start, source, num_bytes)
            words[self._written_at] = written + num_bytes
        return num_bytes

    def pull(self, target: int, num_bytes: int) -> int:
        """Copy up to `num_bytes` out of the ring to address `target`; returns how many were there."""
        words, capacity = self._words, self._capacity
        read = words[self._read_at]
        start = read % capacity
        num_bytes = min(num_bytes, words[self._written_at] - read, capacity - start, self._piece)
        if num_bytes:
            ctypes.memmove(target, self._address + start, num_bytes)
            words[self._read_at] = read + num_bytes
        return num_bytes
