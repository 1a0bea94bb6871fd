"""What has happened to a group, for whoever wants to see it: the latest events, and how many of each kind."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum

MAX_KEPT = 64


class EventKind(str, Enum):
    """All that is told of a group."""

    RANK_LOST = "rank_lost"
    RANK_REPLACED = "rank_replaced"
    REPLACEMENT_FAILED = "replacement_failed"
    EPOCH_BROKE = "epoch_broke"
    EPOCH_GRANTED = "epoch_granted"
    EXPERTS_SWAPPED = "experts_swapped"
    GIVEN_UP = "given_up"


@dataclass(frozen=True, slots=True)
class GroupEvent:
    """One event; `time` is Unix time in seconds, `detail` says in words whom it met."""

    time: float
    kind: str
    epoch: int
    detail: str


class GroupEvents:
    """Remembers the latest events and counts all.

    Args:
        clock: Unix time in seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._latest: deque[GroupEvent] = deque(maxlen=MAX_KEPT)
        self._counts: Counter[str] = Counter({kind.value: 0 for kind in EventKind})

    @property
    def latest(self) -> tuple[GroupEvent, ...]:
        """The oldest first."""
        return tuple(self._latest)

    @property
    def counts(self) -> Mapping[str, int]:
        """How often each kind has happened; a kind that never has is there with 0."""
        return dict(self._counts)

    def note(self, kind: EventKind, epoch: int, detail: str) -> None:
        """Take down what has happened now."""
        self._counts[kind.value] += 1
        self._latest.append(GroupEvent(self._clock(), kind.value, epoch, detail))
