"""Responses that an ingress works on whether or not anybody waits for them."""

from __future__ import annotations

import asyncio
import logging
import uuid
from contextlib import aclosing

from pydantic_core import to_json

from gptoss_ray.errors import GptossError, InvalidRequestError, OverloadedError, UnavailableError
from gptoss_ray.serving.responses.events import END_TYPES
from gptoss_ray.serving.responses.run import ResponseRun
from gptoss_ray.serving.responses.shared_store import SharedStore

logger = logging.getLogger(__name__)

RENEW_S = 4.0
"""The store hears of an ingress so often while it has work; see `store.LEASE_S`."""

RETRY_S = 1.0
"""Until the store is asked again which could not be reached."""

# What a response whose events are not kept tells of itself before its end.
_STATE_EVENTS = ("response.in_progress", "response.output_item.done")


class BackgroundRuns:
    """The background responses of one ingress; what they come to is told to the store.

    Args:
        store: Keeps them.
        max_runs: Most at once.
    """

    def __init__(self, store: SharedStore, max_runs: int) -> None:
        self._store = store
        self._max_runs = max_runs
        self._owner = f"ingress-{uuid.uuid4().hex}"
        self._tasks: dict[str, asyncio.Task[None] | None] = {}
        self._renewing: asyncio.Task[None] | None = None

    async def start(self, run: ResponseRun, *, keeps_events: bool) -> None:
        """Keep a response and begin to work on it.

        Raises:
            OverloadedError: So many are worked on already, or the store has no room.
            InvalidRequestError: The configuration allows none.
            UnavailableError: The store cannot be reached.
        """
        if not self._max_runs:
            raise InvalidRequestError("background is not allowed here; leave it out.", param="background")
        if len(self._tasks) >= self._max_runs:
            raise OverloadedError(
                f"{self._max_runs} responses are worked on in the background already; try again later.",
                param="background",
            )
        self._tasks[run.id] = None
        try:
            if not await self._store.put(run.stored(owner=self._owner, keeps_events=keeps_events)):
                raise OverloadedError("The store of responses is full; try again later.", param="background")
        except BaseException:
            del self._tasks[run.id]
            raise
        task = asyncio.create_task(self._work(run, keeps_events=keeps_events))
        self._tasks[run.id] = task
        task.add_done_callback(lambda _: self._tasks.pop(run.id))
        if self._renewing is None or self._renewing.done():
            self._renewing = asyncio.create_task(self._renew())

    async def _work(self, run: ResponseRun, *, keeps_events: bool) -> None:
        """Read a response to its end; stop where the store says that nobody wants it."""
        try:
            await self._tell_all(run, keeps_events=keeps_events)
        except GptossError as error:
            logger.warning("event=background_response_lost response_id=%s error=%s", run.id, error)

    async def _tell_all(self, run: ResponseRun, *, keeps_events: bool) -> None:
        untold: list[bytes] = []
        telling: asyncio.Task[bool] | None = None
        try:
            async with aclosing(run.events_to_end()) as events:
                async for event in events:
                    if keeps_events or event["type"] in _STATE_EVENTS:
                        untold.append(to_json(event))
                    if event["type"] in END_TYPES:
                        break
                    # While the store takes some events the next ones gather.
                    if untold and (telling is None or telling.done()):
                        if telling is not None and not telling.result():
                            return
                        telling = asyncio.create_task(self._tell(run, tuple(untold)))
                        untold = []
            if telling is None or await telling:
                await self._tell(run, tuple(untold), is_end=True)
        finally:
            if telling is not None:
                telling.cancel()
                await asyncio.gather(telling, return_exceptions=True)

    async def _tell(self, run: ResponseRun, events: tuple[bytes, ...], *, is_end: bool = False) -> bool:
        return await self._store.advance(run.tenant, run.id, run.progress(events, is_end=is_end))

    async def _renew(self) -> None:
        """While there is work, let the store know that this ingress lives, and stop what others cancelled."""
        while self._tasks:
            try:
                stopped = await self._store.renew(self._owner, set(self._tasks), RENEW_S)
            except UnavailableError:
                await asyncio.sleep(RETRY_S)
                continue
            for response_id in stopped:
                if task := self._tasks.get(response_id):
                    task.cancel()
