"""The store of responses in an actor of its own, which all ingress replicas of an application share."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import time
from collections.abc import Collection, Sequence
from importlib.metadata import version
from typing import Any

import ray
from ray.actor import ActorHandle
from ray.exceptions import RayError, RayTaskError

from gptoss_ray.config import LimitsConfig
from gptoss_ray.errors import GptossError, UnavailableError
from gptoss_ray.serving.responses.shared_store import LocalStore, SharedStore, bounded_store
from gptoss_ray.serving.responses.stored_response import EventPage, Progress, StoredItem, StoredResponse

logger = logging.getLogger(__name__)

STORE_NAMESPACE = "gptoss-ray-responses"

CALL_TIMEOUT_S = 5.0
"""A store that does not answer for so long, beside what it was asked to wait, counts as lost."""

TOUCH_S = 60.0
LEFT_AFTER_S = 900.0
"""A store that no ingress has touched for so long ends: its application is gone, or has other limits."""

MAX_CONCURRENT_CALLS = 10_000
"""Most of them wait for events."""

_HEAD_RESOURCE = "node:__internal_head__"
"""The head is the node that an autoscaler never takes away."""

_BOUNDS = ("max_stored_responses", "max_stored_response_bytes", "max_stored_response_age_s")


class ResponseStoreActor(LocalStore):
    """A `LocalStore` that ends when nobody needs it any more."""

    def __init__(self, limits: LimitsConfig) -> None:
        super().__init__(bounded_store(limits))
        self._touched_s = time.monotonic()
        self._watch: asyncio.Task[None] | None = None

    async def touch(self) -> None:
        """Note that an ingress lives."""
        self._touched_s = time.monotonic()
        if self._watch is None:
            self._watch = asyncio.create_task(self._end_when_left())

    async def _end_when_left(self) -> None:
        while time.monotonic() - self._touched_s < LEFT_AFTER_S:
            await asyncio.sleep(TOUCH_S)
        logger.info("event=response_store_left num_responses=%d", len(self._store))
        ray.kill(ray.get_runtime_context().current_actor)


class ActorStore:
    """Reaches the application's store, and makes it where there is none; see `SharedStore`.

    A store that was lost took its responses along; the next call makes a new one.

    Args:
        application: Name of the Serve application.
        limits: Its store has these bounds; with others there is another store.
    """

    def __init__(self, application: str, limits: LimitsConfig) -> None:
        bounds = limits.model_dump_json(include=set(_BOUNDS))
        digest = hashlib.sha256(f"{version('gptoss-ray')} {bounds}".encode()).hexdigest()[:12]
        self._name = f"{application}-{digest}"
        self._limits = limits
        self._actor: ActorHandle[Any] | None = _find_or_make(self._name, limits)
        self._touched_s = float("-inf")

    async def put(self, response: StoredResponse) -> bool:
        """See `SharedStore`."""
        return bool(await self._ask("put", response))

    async def get(self, tenant: str, response_id: str) -> StoredResponse:
        """See `SharedStore`."""
        response: StoredResponse = await self._ask("get", tenant, response_id)
        return response

    async def conversation(
        self, tenant: str, response_id: str, max_items: int, max_bytes: int
    ) -> list[StoredItem]:
        """See `SharedStore`."""
        items: list[StoredItem] = await self._ask("conversation", tenant, response_id, max_items, max_bytes)
        return items

    async def find_items(self, tenant: str, item_ids: Sequence[str]) -> dict[str, StoredItem]:
        """See `SharedStore`."""
        items: dict[str, StoredItem] = await self._ask("find_items", tenant, item_ids)
        return items

    async def advance(self, tenant: str, response_id: str, progress: Progress) -> bool:
        """See `SharedStore`."""
        return bool(await self._ask("advance", tenant, response_id, progress))

    async def read_events(self, tenant: str, response_id: str, after: int, wait_s: float) -> EventPage:
        """See `SharedStore`."""
        page: EventPage = await self._ask("read_events", tenant, response_id, after, wait_s, wait_s=wait_s)
        return page

    async def cancel(self, tenant: str, response_id: str) -> StoredResponse:
        """See `SharedStore`."""
        response: StoredResponse = await self._ask("cancel", tenant, response_id)
        return response

    async def delete(self, tenant: str, response_id: str) -> None:
        """See `SharedStore`."""
        await self._ask("delete", tenant, response_id)

    async def renew(self, owner: str, running: Collection[str], wait_s: float) -> set[str]:
        """See `SharedStore`."""
        stopped: set[str] = await self._ask("renew", owner, running, wait_s, wait_s=wait_s)
        return stopped

    async def touch(self) -> None:
        """Keep the store alive; call it every few seconds."""
        if time.monotonic() - self._touched_s >= TOUCH_S:
            with contextlib.suppress(UnavailableError):
                await self._ask("touch")
                self._touched_s = time.monotonic()

    async def _ask(self, method: str, *args: Any, wait_s: float = 0.0) -> Any:
        try:
            call = getattr(self._reach(), method).remote(*args)
            return await asyncio.wait_for(call, CALL_TIMEOUT_S + wait_s)
        except RayTaskError as error:
            if isinstance(error.cause, GptossError):
                raise error.cause from None
            raise
        except (RayError, asyncio.TimeoutError) as error:
            self._actor = None
            self._touched_s = float("-inf")
            logger.warning("event=response_store_lost method=%s error=%s", method, type(error).__name__)
            raise UnavailableError("The store of responses cannot be reached now; try again.") from error

    def _reach(self) -> ActorHandle[Any]:
        if self._actor is None:
            self._actor = _find_or_make(self._name, self._limits)
        return self._actor


def _find_or_make(name: str, limits: LimitsConfig) -> ActorHandle[Any]:
    options: dict[str, Any] = {
        "name": name,
        "namespace": STORE_NAMESPACE,
        "get_if_exists": True,
        "lifetime": "detached",
        "num_cpus": 0,
        "resources": {_HEAD_RESOURCE: 0.001},
        "max_concurrency": MAX_CONCURRENT_CALLS,
    }
    actor: ActorHandle[Any] = ray.remote(ResponseStoreActor).options(**options).remote(limits)  # type: ignore[assignment]
    return actor


def shared_store(application: str, limits: LimitsConfig) -> SharedStore:
    """Return the store of an application; where it would keep nothing, one that needs no actor."""
    return ActorStore(application, limits) if limits.stores_responses else LocalStore(bounded_store(limits))
