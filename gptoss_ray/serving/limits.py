"""Limits that are checked while a request is read, before it is parsed."""

from __future__ import annotations

from starlette.types import Receive

from gptoss_ray.errors import RequestAbortedError, RequestTooLargeError


async def read_body(receive: Receive, max_bytes: int) -> bytes:
    """Read a request's body, counting as it comes: a declared length may be absent or false.

    Raises:
        RequestTooLargeError: The body has more than `max_bytes`; the rest is not read.
        RequestAbortedError: The client left before the end.
    """
    chunks: list[bytes] = []
    num_bytes = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise RequestAbortedError("The client left before its request was complete.")
        chunk = message.get("body", b"")
        num_bytes += len(chunk)
        if num_bytes > max_bytes:
            raise body_too_large(max_bytes)
        chunks.append(chunk)
        if not message.get("more_body", False):
            return b"".join(chunks)


def body_too_large(max_bytes: int) -> RequestTooLargeError:
    """Return the error for a body or gRPC message of more than `max_bytes`."""
    return RequestTooLargeError(f"The request is larger than {max_bytes} bytes, the most this server reads.")
