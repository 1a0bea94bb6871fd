"""Whose requests are to fail when steps do. Pure.

A step that fails is tried again. Where another one fails that holds a request of the first, each that it
holds is to run alone until it has completed a step, and one that fails there twice is to blame. Steps in
between that hold none of them prove nothing: in a group, other ranks decode while a prompt waits here.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum, auto


class Verdict(Enum):
    """What follows from a failed step."""

    RETRY = auto()
    ISOLATE = auto()
    BLAME = auto()


class FailedSteps:
    """Requests that were in a failed step, and have not completed one since."""

    def __init__(self) -> None:
        self._suspects: set[str] = set()
        self._last_held_nothing = False

    def fail(self, request_ids: Iterable[str]) -> Verdict:
        """Take a failed step that held these requests.

        Without any, it is the rank's own failure: a second one in a row is to be blamed on all requests here.
        """
        held = set(request_ids)
        is_second = bool(held & self._suspects) if held else self._last_held_nothing
        self._last_held_nothing = not held and not is_second
        if not is_second:
            self._suspects |= held
            return Verdict.RETRY
        self._suspects -= held
        return Verdict.ISOLATE if len(held) > 1 else Verdict.BLAME

    def complete(self, request_ids: Iterable[str]) -> None:
        """Take a step that was completed."""
        self._suspects.difference_update(request_ids)
        self._last_held_nothing = False

    def forget(self, request_id: str) -> None:
        """Drop a request that has gone."""
        self._suspects.discard(request_id)
