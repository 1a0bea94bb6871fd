"""The store as an ingress reaches it: in this process, or in one that all ingress replicas share."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection, Sequence
from typing import Protocol
from weakref import WeakValueDictionary

from gptoss_ray.config import LimitsConfig
from gptoss_ray.serving.responses.store import ResponseStore
from gptoss_ray.serving.responses.stored_response import EventPage, Progress, StoredItem, StoredResponse


class SharedStore(Protocol):
    """The methods of `ResponseStore`, which two of them wait for.

    Each raises UnavailableError where the store cannot be reached in time.
    """

    async def put(self, response: StoredResponse) -> bool:
        """See `ResponseStore`."""
        ...

    async def get(self, tenant: str, response_id: str) -> StoredResponse:
        """See `ResponseStore`."""
        ...

    async def conversation(
        self, tenant: str, response_id: str, max_items: int, max_bytes: int
    ) -> list[StoredItem]:
        """See `ResponseStore`."""
        ...

    async def find_items(self, tenant: str, item_ids: Sequence[str]) -> dict[str, StoredItem]:
        """See `ResponseStore`."""
        ...

    async def advance(self, tenant: str, response_id: str, progress: Progress) -> bool:
        """See `ResponseStore`."""
        ...

    async def read_events(self, tenant: str, response_id: str, after: int, wait_s: float) -> EventPage:
        """See `ResponseStore`; where there is none, wait so long for one."""
        ...

    async def cancel(self, tenant: str, response_id: str) -> StoredResponse:
        """See `ResponseStore`."""
        ...

    async def delete(self, tenant: str, response_id: str) -> None:
        """See `ResponseStore`."""
        ...

    async def renew(self, owner: str, running: Collection[str], wait_s: float) -> set[str]:
        """See `ResponseStore`; where none was stopped, wait so long for one."""
        ...


class LocalStore:
    """A store in this process, for one event loop; see `SharedStore`."""

    def __init__(self, store: ResponseStore) -> None:
        self._store = store
        # Who waits for a change keeps its event alive.
        self._changes: WeakValueDictionary[str, asyncio.Event] = WeakValueDictionary()

    async def put(self, response: StoredResponse) -> bool:
        """See `ResponseStore`."""
        return self._store.put(response)

    async def get(self, tenant: str, response_id: str) -> StoredResponse:
        """See `ResponseStore`."""
        return self._store.get(tenant, response_id)

    async def conversation(
        self, tenant: str, response_id: str, max_items: int, max_bytes: int
    ) -> list[StoredItem]:
        """See `ResponseStore`."""
        return self._store.conversation(tenant, response_id, max_items=max_items, max_bytes=max_bytes)

    async def find_items(self, tenant: str, item_ids: Sequence[str]) -> dict[str, StoredItem]:
        """See `ResponseStore`."""
        return self._store.find_items(tenant, item_ids)

    async def advance(self, tenant: str, response_id: str, progress: Progress) -> bool:
        """See `ResponseStore`."""
        goes_on = self._store.advance(tenant, response_id, progress)
        self._changed(response_id)
        return goes_on

    async def read_events(self, tenant: str, response_id: str, after: int, wait_s: float) -> EventPage:
        """See `SharedStore`."""
        page = self._store.read_events(tenant, response_id, after)
        if page.events or page.is_end or not await self._wait(response_id, wait_s):
            return page
        return self._store.read_events(tenant, response_id, after)

    async def cancel(self, tenant: str, response_id: str) -> StoredResponse:
        """See `ResponseStore`."""
        cancelled = self._store.cancel(tenant, response_id)
        self._changed(response_id, cancelled.owner)
        return cancelled

    async def delete(self, tenant: str, response_id: str) -> None:
        """See `ResponseStore`."""
        owner = self._store.get(tenant, response_id).owner
        self._store.delete(tenant, response_id)
        self._changed(response_id, owner)

    async def renew(self, owner: str, running: Collection[str], wait_s: float) -> set[str]:
        """See `SharedStore`."""
        stopped = self._store.renew(owner, running)
        if not stopped and await self._wait(owner, wait_s):
            stopped = self._store.renew(owner, running)
        return stopped

    async def _wait(self, key: str, wait_s: float) -> bool:
        """Wait for a change of a response, or in those of an owner; return whether there was one."""
        change = self._changes.get(key)
        if change is None:
            change = self._changes[key] = asyncio.Event()
        try:
            await asyncio.wait_for(change.wait(), wait_s)
        except asyncio.TimeoutError:
            return False
        return True

    def _changed(self, *keys: str | None) -> None:
        for key in keys:
            change = self._changes.pop(key, None) if key else None
            if change is not None:
                change.set()


def bounded_store(limits: LimitsConfig) -> ResponseStore:
    """Return a store with the bounds of the configuration."""
    return ResponseStore(
        max_responses=limits.max_stored_responses,
        max_bytes=limits.max_stored_response_bytes,
        max_age_s=limits.max_stored_response_age_s,
        clock=time.monotonic,
    )
