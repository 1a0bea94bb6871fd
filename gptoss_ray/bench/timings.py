"""Seconds that the same work took, several times over."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Timings:
    """Seconds of each repeat, at least one."""

    seconds: tuple[float, ...]

    @property
    def median_s(self) -> float:
        """Half of the repeats were no slower."""
        return statistics.median(self.seconds)

    @property
    def p95_s(self) -> float:
        """95 % of the repeats were no slower (nearest rank)."""
        return percentile(self.seconds, 0.95)


def percentile(values: Sequence[float], share: float) -> float:
    """Return the smallest value that at least `share` of the values do not exceed."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def time_calls(call: Callable[[int], object], *, min_calls: int, min_s: float) -> Timings:
    """Time `call(number)` until it was called `min_calls` times and for `min_s` seconds in all.

    The first call warms up and is not counted. `number` counts on, so that calls can take different data.
    """
    call(0)
    seconds: list[float] = []
    while len(seconds) < min_calls or sum(seconds) < min_s:
        began = time.perf_counter()
        call(len(seconds) + 1)
        seconds.append(time.perf_counter() - began)
    return Timings(tuple(seconds))
