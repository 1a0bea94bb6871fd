"""How long things have waited of late. Pure but for its clock."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable

MEMORY_S = 30.0
"""A wait that ended longer ago counts no more."""

MAX_REMEMBERED = 128
_SHARE = 0.9


class WaitTimes:
    """Waits by name, from `begin` to `end`; one that is given up is dropped.

    Args:
        clock: Seconds that only grow.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._begun: dict[str, float] = {}
        self._ended: deque[tuple[float, float]] = deque(maxlen=MAX_REMEMBERED)

    def begin(self, name: str) -> None:
        """Start to wait."""
        self._begun[name] = self._clock()

    def end(self, name: str) -> None:
        """Note that what was waited for has come; once, what comes after it is nothing new."""
        begun_s = self._begun.pop(name, None)
        if begun_s is not None:
            now_s = self._clock()
            self._ended.append((now_s, now_s - begun_s))

    def drop(self, name: str) -> None:
        """Forget a wait that came to nothing; nothing where it has ended."""
        self._begun.pop(name, None)

    def recent_s(self) -> float | None:
        """Return what nine waits in ten stayed within, of the latest; None where there were none.

        A wait that goes on counts as far as it has come, where that is longer: what is stuck shows before it
        has ended.
        """
        now_s = self._clock()
        while self._ended and now_s - self._ended[0][0] > MEMORY_S:
            self._ended.popleft()
        waits_s = sorted(wait_s for _, wait_s in self._ended)
        usual_s = waits_s[math.ceil(_SHARE * len(waits_s)) - 1] if waits_s else None
        longer_s = [now_s - begun_s for begun_s in self._begun.values() if now_s - begun_s > (usual_s or 0.0)]
        if not longer_s:
            return usual_s
        waits_s = sorted((*waits_s, *longer_s))
        return waits_s[math.ceil(_SHARE * len(waits_s)) - 1]
