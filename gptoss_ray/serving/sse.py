"""Server-sent events: an HTTP response that sends as its source yields and stops when the client leaves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Coroutine
from contextlib import aclosing
from typing import Any, NamedTuple, TypeVar

from pydantic_core import to_json
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from gptoss_ray.errors import RequestAbortedError
from gptoss_ray.serving.status_codes import as_client_error, error_object
from gptoss_ray.serving.stream_pacing import wait_for_reader

ResultT = TypeVar("ResultT")
DONE = b"data: [DONE]\n\n"


class NamedEvent(NamedTuple):
    """An event of JSON with a name of its own."""

    name: str
    json: bytes


def data_event(payload: bytes | NamedEvent) -> Message:
    """Return one event of JSON as ASGI sends it; its lines end in LF alone, which all clients split on."""
    if isinstance(payload, NamedEvent):
        body = b"event: %b\ndata: %b\n\n" % (payload.name.encode(), payload.json)
    else:
        body = b"data: %b\n\n" % payload
    return {"type": "http.response.body", "body": body, "more_body": True}


async def cancel_on_disconnect(receive: Receive, work: Coroutine[Any, Any, ResultT]) -> ResultT:
    """Run `work`; cancel it as soon as the client leaves. The request's body must have been read.

    Raises:
        RequestAbortedError: The client left.
    """
    working = asyncio.create_task(work)
    watching = asyncio.create_task(_client_left(receive))
    try:
        await asyncio.wait((working, watching), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise RequestAbortedError("The client left before its answer was complete.")
        return working.result()
    finally:
        working.cancel()
        watching.cancel()
        await asyncio.gather(working, watching, return_exceptions=True)


async def _client_left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class EventStreamResponse(Response):
    """Sends the source's JSON as events, then `last`.

    The status line waits for the first event, so that a request refused by the engine still gets an
    HTTP status of its own; a later error becomes an event. The source is closed in every case.
    """

    def __init__(
        self,
        payloads: AsyncGenerator[bytes | NamedEvent, None],
        *,
        request_id: str,
        last: bytes = DONE,
    ) -> None:
        super().__init__(
            media_type="text/event-stream",
            headers={"cache-control": "no-cache", "x-accel-buffering": "no"},
        )
        del self.headers["content-length"]
        self._payloads = payloads
        self._request_id = request_id
        self._last = last

    async def __call__(self, _scope: Scope, receive: Receive, send: Send) -> None:
        """Send all events; raise only what happens before the first one, or that the client left."""
        await cancel_on_disconnect(receive, self._send_all(send))

    async def _send_all(self, send: Send) -> None:
        async with aclosing(self._payloads) as payloads:
            first = await anext(payloads, None)
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            if first is not None:
                await send(data_event(first))
            try:
                async for payload in payloads:
                    await wait_for_reader()
                    await send(data_event(payload))
            except Exception as error:
                shown = as_client_error(error, self._request_id)
                await send(data_event(to_json(error_object(shown))))
        await send({"type": "http.response.body", "body": self._last, "more_body": False})
