"""Which live requests of a rank a client may abort together."""

from __future__ import annotations

from collections import defaultdict

from gptoss_ray.generation import GenerationRequest


class AbortKeys:
    """Request ids by the key that their client knows."""

    def __init__(self) -> None:
        self._ids: defaultdict[str, set[str]] = defaultdict(set)
        self._keys: dict[str, str] = {}

    def add(self, request: GenerationRequest) -> None:
        """Note a live request; one without a key is aborted by its own id alone."""
        if request.abort_key:
            self._ids[request.abort_key].add(request.request_id)
            self._keys[request.request_id] = request.abort_key

    def discard(self, request_id: str) -> None:
        """Forget a request that has ended."""
        key = self._keys.pop(request_id, None)
        if key is not None:
            self._ids[key].remove(request_id)
            if not self._ids[key]:
                del self._ids[key]

    def ids(self, key: str) -> tuple[str, ...]:
        """Return the live requests of a key."""
        return tuple(self._ids.get(key, ()))
