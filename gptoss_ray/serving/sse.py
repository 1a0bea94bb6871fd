"""Server-sent events: an HTTP response that sends as its source yields and stops when the client leaves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Coroutine
from contextlib import aclosing
from typing import Any, TypeVar

from pydantic_core import to_json
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from gptoss_ray.errors import RequestAbortedError
from gptoss_ray.serving.status_codes import as_client_error, error_object
from gptoss_ray.serving.stream_pacing import wait_for_reader

ResultT = TypeVar("ResultT")
DONE = b"data: [DONE]\n\n"


def data_event(json: bytes) -> Message:
    """Return one event of JSON as ASGI sends it; its lines end in LF alone, which all clients split on."""
    return {"type": "http.response.body", "body": b"data: %b\n\n" % json, "more_body": True}


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
    """Sends the source's JSON as events, then `[DONE]`.

    The status line waits for the first event, so that a request refused by the engine still gets an
    HTTP status of its own; a later error becomes an event. The source is closed in every case.
    """

    def __init__(self, payloads: AsyncGenerator[bytes, None], *, request_id: str) -> None:
        super().__init__(
            media_type="text/event-stream",
            headers={"cache-control": "no-cache", "x-accel-buffering": "no"},
        )
        del self.headers["content-length"]
        self._payloads = payloads
        self._request_id = request_id

    async def __call__(self, _scope: Scope, receive: Receive, send: Send) -> None:
        """Send all events; raise only what happens before the first one, or that the client left."""
        await cancel_on_disconnect(receive, self._send_all(send))

    async def _send_all(self, send: Send) -> None:
        async with aclosing(self._payloads) as payloads:
            first = await anext(payloads)
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            await send(data_event(first))
            try:
                async for payload in payloads:
                    await wait_for_reader()
                    await send(data_event(payload))
            except Exception as error:
                shown = as_client_error(error, self._request_id)
                await send(data_event(to_json(error_object(shown))))
        await send({"type": "http.response.body", "body": DONE, "more_body": False})
