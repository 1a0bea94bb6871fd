"""Refusals of a moment ago, so that a flood is refused in the ingress and not asked about again and again."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable

from gptoss_ray.errors import OverloadedError
from gptoss_ray.generation import GenerationRequest

MEMORY_S = 0.1
"""How long a refusal holds. A place that gets free meanwhile stays empty for so long at most, and what waits
in the replica's queue keeps its seats busy."""


class RecentRefusals:
    """What the replicas of one model have just refused, the latest of each tenant.

    A queue that has no place for a request has none for another of the same tenant that is as large.

    Args:
        clock: Seconds that never go back.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._latest: dict[str, tuple[float, int, OverloadedError]] = {}

    def note(self, request: GenerationRequest, error: OverloadedError) -> None:
        """Remember that a replica has refused a request."""
        now_s = self._clock()
        self._latest = {tenant: latest for tenant, latest in self._latest.items() if latest[0] > now_s}
        self._latest[request.cache_salt] = (now_s + MEMORY_S, _size(request), copy.copy(error))

    def check(self, request: GenerationRequest) -> None:
        """Refuse what would be refused again; where that is in doubt, one asks and the others are refused.

        Raises:
            OverloadedError: One of the same tenant that was no larger was refused just now.
        """
        tenant, now_s = request.cache_salt, self._clock()
        until_s, size, error = self._latest.get(tenant, (0.0, 0, None))
        if error is None or _size(request) < size or now_s >= until_s + MEMORY_S:
            return
        if now_s < until_s:
            raise copy.copy(error)
        self._latest[tenant] = (now_s + MEMORY_S, size, error)

    def forget(self, request: GenerationRequest) -> None:
        """Remember no refusal of a tenant of whom a replica has now taken a request."""
        self._latest.pop(request.cache_salt, None)


def _size(request: GenerationRequest) -> int:
    return len(request.prompt_token_ids) + request.params.max_tokens
