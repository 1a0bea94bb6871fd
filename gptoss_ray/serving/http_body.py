"""A request's body as the type that its route takes."""

from __future__ import annotations

from functools import partial

from fastapi import Request

from gptoss_ray.serving.limits import parse_aside, read_body
from gptoss_ray.serving.openai_types import RequestT, parse_json


async def parse_body(kind: type[RequestT], request: Request, max_bytes: int) -> RequestT:
    """Return the request in a JSON body.

    Raises:
        InvalidRequestError: See `parse_json`.
        RequestTooLargeError: It has more than `max_bytes`.
    """
    body = await read_body(request.receive, max_bytes)
    return await parse_aside(len(body), partial(parse_json, kind, body))
