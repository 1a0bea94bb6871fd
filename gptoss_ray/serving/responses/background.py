"""Responses that an ingress works on whether or not anybody waits for them."""

from __future__ import annotations

import asyncio
import logging
import uuid
from contextlib import aclosing

from gptoss_ray.errors import GptossError, InvalidRequestError, OverloadedError, UnavailableError
from gptoss_ray.serving.apart import start_apart
from gptoss_ray.serving.responses.events import ResponseEvent
from gptoss_ray.serving.responses.run import ResponseRun
from gptoss_ray.serving.responses.shared_store import SharedStore
from gptoss_ray.serving.responses.stored_response import Progress
from gptoss_ray.tracing import current_traceparent

logger = logging.getLogger(__name__)

RENEW_S = 4.0
"""The store hears of an ingress so often while it has work; see `store.LEASE_S`."""

RETRY_S = 1.0
"""Until the store is asked again which could not be reached."""

_NOTHING = Progress((), None, (), is_end=False)


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

    def check_room(self) -> None:
        """Raise where no further response can be worked on.

        Raises:
            OverloadedError: So many are worked on already.
            InvalidRequestError: The configuration allows none.
        """
        if not self._max_runs:
            raise InvalidRequestError("background is not allowed here; leave it out.", param="background")
        if len(self._tasks) >= self._max_runs:
            raise OverloadedError(
                f"{self._max_runs} responses are worked on in the background already; try again later.",
                param="background",
            )

    async def start(self, run: ResponseRun, *, keeps_events: bool) -> None:
        """Keep a response and begin to work on it.

        Raises:
            OverloadedError: So many are worked on already, or the store has no room.
            UnavailableError: The store cannot be reached.
        """
        self.check_room()
        self._tasks[run.id] = None
        try:
            if not await self._store.put(run.stored(owner=self._owner, keeps_events=keeps_events)):
                raise OverloadedError("The store of responses is full; try again later.", param="background")
        except BaseException:
            del self._tasks[run.id]
            raise
        task = start_apart(self._work(run, keeps_events=keeps_events), current_traceparent())
        self._tasks[run.id] = task
        task.add_done_callback(lambda _: self._tasks.pop(run.id))
        if self._renewing is None or self._renewing.done():
            self._renewing = start_apart(self._renew())

    async def _work(self, run: ResponseRun, *, keeps_events: bool) -> None:
        """Read a response to its end; stop where the store says that nobody wants it."""
        try:
            await self._tell_all(run, keeps_events=keeps_events)
        except GptossError as error:
            logger.warning("event=background_response_lost response_id=%s error=%s", run.id, error)

    async def _tell_all(self, run: ResponseRun, *, keeps_events: bool) -> None:
        """Tell the store all that comes; what comes while it takes some is told together."""
        news: asyncio.Queue[ResponseEvent | None] = asyncio.Queue()
        reading = asyncio.create_task(_read(run, news))
        num_told_items = 0
        try:
            while events := await _gathered(news):
                progress = run.progress(events, keeps_events=keeps_events, num_told_items=num_told_items)
                num_told_items = len(run.writer.output)
                if progress == _NOTHING:
                    continue
                if not await self._store.advance(run.tenant, run.id, progress) or progress.is_end:
                    return
        finally:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)

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


async def _read(run: ResponseRun, news: asyncio.Queue[ResponseEvent | None]) -> None:
    """Put a response's events into a queue, and None behind them."""
    try:
        async with aclosing(run.events_to_end()) as events:
            async for event in events:
                news.put_nowait(event)
    finally:
        news.put_nowait(None)


async def _gathered(news: asyncio.Queue[ResponseEvent | None]) -> list[ResponseEvent]:
    """Wait for an event and return all that are there; none at the end."""
    event = await news.get()
    events: list[ResponseEvent] = []
    while event is not None:
        events.append(event)
        if news.empty():
            break
        event = news.get_nowait()
    return events
