"""Limits that are checked while a request is read, before it is parsed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

from starlette.types import Receive

from gptoss_ray.errors import (
    InvalidRequestError,
    MediaTypeError,
    RequestAbortedError,
    RequestStalledError,
    RequestTooLargeError,
)

ResultT = TypeVar("ResultT")

MAX_BYTES_READ_AT_ONCE = 16 << 10
"""A larger request may take milliseconds to parse."""

MAX_JSON_VALUES = 1 << 18
"""Numbers, strings, keys, lists and objects of a JSON text, twice the token ids of the longest context: to
parse them holds the GIL, which holds up everybody's streams, thread or not (up to 70 ms for so many)."""

MAX_JSON_CONTAINERS = 1 << 15
"""Lists and objects among them: turned into fields, each takes as long as a hundred numbers."""

BODY_TIMEOUT_S = 60.0
"""A body that takes longer is refused; a client that stalls holds a connection and a place in a queue."""

_PIECE_BYTES = 64 << 10


async def read_body(receive: Receive, max_bytes: int) -> bytes:
    """Read a request's body, counting as it comes: a declared length may be absent or false.

    Raises:
        RequestTooLargeError: The body has more than `max_bytes`; the rest is not read.
        RequestStalledError: It takes longer than `BODY_TIMEOUT_S`.
        RequestAbortedError: The client left before the end.
    """
    try:
        return await asyncio.wait_for(_read_body(receive, max_bytes), BODY_TIMEOUT_S)
    except asyncio.TimeoutError:
        raise RequestStalledError(
            f"The request's body did not come within {BODY_TIMEOUT_S:g} s; send it faster, or a smaller one."
        ) from None


async def _read_body(receive: Receive, max_bytes: int) -> bytes:
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


def check_media_type(content_type: str | None) -> None:
    """Refuse a body that says that it is no JSON, such as a form that a foreign page has a browser send.

    Raises:
        MediaTypeError: It does. None says nothing, and the body is read.
    """
    media_type = (content_type or "application/json").partition(";")[0].strip().lower()
    if media_type != "application/json" and not media_type.endswith("+json"):
        raise MediaTypeError(
            f"The request's content-type is {media_type[:80]!r}; send JSON, and say 'application/json'.",
            param="content-type",
        )


def body_too_large(max_bytes: int) -> RequestTooLargeError:
    """Return the error for a body or gRPC message of more than `max_bytes`."""
    return RequestTooLargeError(f"The request is larger than {max_bytes} bytes, the most this server reads.")


async def parse_aside(num_bytes: int, parse: Callable[[], ResultT]) -> ResultT:
    """Return what `parse` makes of a request; of a large one in a thread, so that others' streams go on."""
    return parse() if num_bytes <= MAX_BYTES_READ_AT_ONCE else await asyncio.to_thread(parse)


def check_json_size(text: bytes, param: str | None = None) -> None:
    """Raise InvalidRequestError where a JSON text has too many values.

    Counts what separates and opens values and keys outside of strings, a piece at a time, without parsing. Of
    a text that is no JSON it counts at least all that a parser would read before it notices.

    Args:
        text: JSON.
        param: The field that it stands in; None: it is a whole body.
    """
    if len(text) <= MAX_JSON_CONTAINERS:
        return
    num_values, num_containers = 1, 0
    in_string = ends_in_escape = False
    for start in range(0, len(text), _PIECE_BYTES):
        # Behind a backslash with which the piece before ended stands a character of a string.
        piece = text[start + ends_in_escape : start + _PIECE_BYTES].replace(rb"\\", b"")
        ends_in_escape = piece.endswith(b"\\")
        parts = piece.replace(rb"\"", b"").split(b'"')
        outside = b"".join(parts[in_string::2])
        in_string ^= len(parts) % 2 == 0
        num_opened = outside.count(b"[") + outside.count(b"{")
        num_containers += num_opened
        num_values += num_opened + outside.count(b",") + outside.count(b":")
        for count, limit, what in (
            (num_values, MAX_JSON_VALUES, "values"),
            (num_containers, MAX_JSON_CONTAINERS, "lists and objects"),
        ):
            if count > limit:
                name = param or "The body"
                raise InvalidRequestError(f"{name} has more than {limit} {what}; send fewer.", param=param)
