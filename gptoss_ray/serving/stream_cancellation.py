"""The one place that changes how stock Ray Serve's gRPC proxy ends a stream that its client cancels.

Serve 2.60 tells the replica of a cancelled stream only if the proxy was waiting for the next response
at that moment. Where it was writing one to the client, gRPC abandons the proxy's generator instead of
raising inside it (`ray.serve._private.proxy.gRPCProxy.service_handler_factory`), and the request runs on
for nobody: one cancelled stream in fourteen, measured at 3 ms per token.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any

StreamHandler = Callable[[Any, Any], AsyncGenerator[bytes, None]]


def forward_all_cancellations() -> None:
    """Make this proxy tell the replica of every cancelled stream."""
    proxy: Any = importlib.import_module("ray.serve._private.proxy").gRPCProxy
    make_handler = proxy.service_handler_factory

    def make_cancellable_handler(self: Any, service_method: str, streaming_type: Any) -> Any:
        handler = make_handler(self, service_method=service_method, streaming_type=streaming_type)
        return writing_handler(handler) if streaming_type.name == "UNARY_STREAM" else handler

    proxy.service_handler_factory = make_cancellable_handler


def writing_handler(handler: StreamHandler) -> Callable[[Any, Any], Awaitable[None]]:
    """Turn a handler that yields its responses into one that writes them, and sees itself cancelled."""

    async def write_responses(request: Any, context: Any) -> None:
        responses = handler(request, context)
        try:
            async for response in responses:
                await context.write(response)
        except asyncio.CancelledError:
            await _cancel_inside(responses)
            raise

    return write_responses


async def _cancel_inside(responses: AsyncGenerator[bytes, None]) -> None:
    """Let a generator see the cancellation where Serve looks for it: while it waits for a response."""
    waiting = asyncio.ensure_future(responses.__anext__())
    await asyncio.sleep(0)
    waiting.cancel()
    with contextlib.suppress(asyncio.CancelledError, StopAsyncIteration):
        await waiting
    await responses.aclose()
