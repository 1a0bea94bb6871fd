"""Refusals of a moment ago, so that a flood is refused in the ingress and not asked about again and again."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass

from gptoss_ray.errors import OverloadedError
from gptoss_ray.generation import GenerationRequest

MEMORY_S = 0.1
"""How long a refusal holds. A place that gets free meanwhile stays empty for so long at most, and what waits
in the replica's queue keeps its seats busy."""


@dataclass
class _Refusal:
    """A refusal: it holds until `doubted_s`, then until one has asked again, for as long at most."""

    doubted_s: float
    size: int
    error: OverloadedError

    @property
    def over_s(self) -> float:
        return self.doubted_s + MEMORY_S


class RecentRefusals:
    """What the replicas of one model have just refused, the latest of each tenant.

    A queue that has no place for a request has none for another of the same tenant that is as large.

    Args:
        clock: Seconds that never go back.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._latest: dict[str, _Refusal] = {}

    def note(self, request: GenerationRequest, error: OverloadedError) -> None:
        """Remember that a replica has refused a request."""
        now_s = self._clock()
        self._latest = {tenant: latest for tenant, latest in self._latest.items() if now_s < latest.over_s}
        self._latest[request.cache_salt] = _Refusal(now_s + MEMORY_S, _size(request), copy.copy(error))

    def check(self, request: GenerationRequest) -> None:
        """Refuse what would be refused again; where that is in doubt, one asks and the others are refused.

        Raises:
            OverloadedError: One of the same tenant that was no larger was refused just now.
        """
        latest, now_s = self._latest.get(request.cache_salt), self._clock()
        if latest is None or _size(request) < latest.size or now_s >= latest.over_s:
            return
        if now_s < latest.doubted_s:
            raise copy.copy(latest.error)
        latest.doubted_s = now_s + MEMORY_S

    def forget(self, request: GenerationRequest) -> None:
        """Remember no refusal of a tenant of whom a replica has now taken a request."""
        self._latest.pop(request.cache_salt, None)


def _size(request: GenerationRequest) -> int:
    return len(request.prompt_token_ids) + request.params.max_tokens
