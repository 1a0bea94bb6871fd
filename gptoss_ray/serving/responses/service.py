"""The Responses API of an ingress: `ResponsesApi` over the chat path and the store."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing
from functools import partial

from pydantic_core import from_json

from gptoss_ray.errors import GptossError, InvalidRequestError
from gptoss_ray.serving.request_id import abort_key
from gptoss_ray.serving.responses.api import PageRequest
from gptoss_ray.serving.responses.background import BackgroundRuns
from gptoss_ray.serving.responses.events import ResponseEnd, ResponseEvent
from gptoss_ray.serving.responses.failure import failure_of
from gptoss_ray.serving.responses.input_pages import input_page
from gptoss_ray.serving.responses.objects import DeletedResponse, InputItemList, ResponseObject
from gptoss_ray.serving.responses.preparation import Preparation
from gptoss_ray.serving.responses.request import ResponseRequest
from gptoss_ray.serving.responses.run import ResponseRun

logger = logging.getLogger(__name__)

FOLLOW_S = 5.0
"""How long the store is asked to wait for the next event; then it looks whether its ingress still lives."""


class ResponseService:
    """See `ResponsesApi`."""

    def __init__(self, preparation: Preparation) -> None:
        self._preparation = preparation
        self._limits = preparation.limits
        self._store = preparation.store
        self._background = BackgroundRuns(self._store, self._limits.max_background_responses)

    async def stream(
        self, request: ResponseRequest, *, tenant: str, request_id: str = ""
    ) -> AsyncGenerator[ResponseEvent, None]:
        """See `ResponsesApi`."""
        run = await self._prepare(request, tenant, request_id)
        if not request.background:
            # Whoever reads the end may go on from it at once.
            return run.events_to_end(partial(self._kept, run))
        await self._background.start(run, keeps_events=True)
        return self._follow(run.tenant, run.id, -1)

    async def create(self, request: ResponseRequest, *, tenant: str, request_id: str = "") -> ResponseObject:
        """See `ResponsesApi`."""
        run = await self._prepare(request, tenant, request_id)
        if request.background:
            queued = run.writer.snapshot()
            await self._background.start(run, keeps_events=False)
            return queued
        async with aclosing(run.events()) as events:
            async for _ in events:
                pass
        return (await self._kept(run, run.end()))["response"]

    async def retrieve(self, response_id: str, *, tenant: str) -> ResponseObject:
        """See `ResponsesApi`."""
        return (await self._store.get(tenant, response_id)).object()

    async def resume(
        self, response_id: str, *, starting_after: int | None, tenant: str
    ) -> AsyncGenerator[ResponseEvent, None]:
        """See `ResponsesApi`."""
        after = -1 if starting_after is None else starting_after
        if after < -1:
            raise InvalidRequestError("starting_after must not be negative.", param="starting_after")
        await self._store.read_events(tenant, response_id, after, 0)
        return self._follow(tenant, response_id, after)

    async def cancel(self, response_id: str, *, tenant: str) -> ResponseObject:
        """See `ResponsesApi`."""
        return (await self._store.cancel(tenant, response_id)).object()

    async def delete(self, response_id: str, *, tenant: str) -> DeletedResponse:
        """See `ResponsesApi`."""
        await self._store.delete(tenant, response_id)
        return DeletedResponse(id=response_id, object="response", deleted=True)

    async def input_items(self, response_id: str, page: PageRequest, *, tenant: str) -> InputItemList:
        """See `ResponsesApi`."""
        return input_page((await self._store.get(tenant, response_id)).input, page)

    async def _prepare(self, request: ResponseRequest, tenant: str, request_id: str) -> ResponseRun:
        if request.background:
            if not (request.is_stored and self._limits.stores_responses):
                remedy = "set store to true" if self._limits.stores_responses else "none is kept here"
                raise InvalidRequestError(
                    f"background needs a response that is stored; {remedy}.", param="background"
                )
            self._background.check_room()
        key = abort_key(tenant, request_id)
        return await self._preparation.run(request, tenant=tenant, abort_key=key)

    async def _kept(self, run: ResponseRun, end: ResponseEnd) -> ResponseEnd:
        """Keep a response if it is to be kept; where that fails, it says that it is not.

        The answer is there and may be all that its client wants, so a lost store does not take it away.
        """
        if not run.response["store"]:
            return end
        try:
            is_kept = await self._store.put(run.stored())
        except GptossError as error:
            logger.warning("event=response_not_stored response_id=%s error=%s", run.id, error)
            is_kept = False
        return end if is_kept else {**end, "response": {**end["response"], "store": False}}

    async def _follow(self, tenant: str, response_id: str, after: int) -> AsyncGenerator[ResponseEvent, None]:
        """Yield a background response's events as they come to the store; losing it is the last of them."""
        last: ResponseObject | None = None
        try:
            last = (await self._store.get(tenant, response_id)).object()
            while True:
                page = await self._store.read_events(tenant, response_id, after, FOLLOW_S)
                for encoded in page.events:
                    event: ResponseEvent = from_json(encoded)
                    after = event["sequence_number"]
                    yield event
                if page.is_end:
                    return
        except GptossError as error:
            if last is None:
                raise
            yield {
                "type": "response.failed",
                "sequence_number": after + 1,
                "response": {**last, "status": "failed", "error": failure_of(error)},
            }
