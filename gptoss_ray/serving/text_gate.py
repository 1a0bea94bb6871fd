"""Lets generated text through up to the first stop string, holding back what may become one."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from typing import Generic, TypeVar

EntryT = TypeVar("EntryT")


class TextGate(Generic[EntryT]):
    """Passes text on as soon as no stop string can begin in it, and each token's entry with its text.

    An entry is whatever belongs to one token (its log probabilities). It leaves with the first
    character fed along with it, so that entries tell of exactly the text that left.

    Attributes:
        stopped: A stop string was met; nothing passes any more.
    """

    def __init__(self, stop: Iterable[str] = (), *, includes_stop: bool = False) -> None:
        """Take the stop strings, none of them empty, and whether the one that is met passes too."""
        self.stopped = False
        self._includes_stop = includes_stop
        self._stop = tuple(stop)
        self._held = ""
        self._num_passed = 0
        self._entries: deque[tuple[int, EntryT]] = deque()

    @property
    def held_entries(self) -> list[EntryT]:
        """The entries that have not left."""
        return [entry for _, entry in self._entries]

    def feed(self, text: str, entries: Sequence[EntryT] = ()) -> tuple[str, list[EntryT]]:
        """Add text and the entries of its tokens; return the text and the entries that may leave now."""
        if not (self._stop or self._entries or entries):
            return text, []  # nothing can be held back, so nothing has to be counted
        start = self._num_passed + len(self._held)
        self._entries.extend((start, entry) for entry in entries)
        self._held += text
        found = [(start, len(stop)) for stop in self._stop if (start := self._held.find(stop)) >= 0]
        if found:
            self.stopped = True
            first, length = min(found)
            passed, self._held = self._held[: first + length * self._includes_stop], ""
        else:
            passed = self._held[: len(self._held) - self._num_undecided()]
            self._held = self._held[len(passed) :]
        self._num_passed += len(passed)
        return passed, self._release(self._num_passed)

    def flush(self) -> tuple[str, list[EntryT]]:
        """Return what is held back: no more text follows that could complete a stop string."""
        passed, self._held = self._held, ""
        self._num_passed += len(passed)
        return passed, [] if self.stopped else self._release(self._num_passed + 1)

    def _num_undecided(self) -> int:
        """Return how many characters at the end of the held text may begin a stop string."""
        return max((_overlap(self._held, stop) for stop in self._stop), default=0)

    def _release(self, before: int) -> list[EntryT]:
        """Return the entries fed before this character."""
        released = []
        while self._entries and self._entries[0][0] < before:
            released.append(self._entries.popleft()[1])
        return released


def _overlap(text: str, stop: str) -> int:
    """Return the length of the longest end of `text` that is a beginning of `stop`, but not all of it."""
    longest = min(len(text), len(stop) - 1)
    return next((n for n in range(longest, 0, -1) if text.endswith(stop[:n])), 0)
