"""Talking to a gptoss_ray server, or any OpenAI-compatible one, over HTTP from the command line."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx

from gptoss_ray.errors import GptossError, UnavailableError

_EVENT = "data: "
_END = "data: [DONE]"
_ENDED_EARLY = "The stream ended early; the server may have stopped."


def bearer(api_key: str | None) -> dict[str, str]:
    """Return the header that carries an API key; empty without one."""
    return {"authorization": f"Bearer {api_key}"} if api_key else {}


def sse_events(response: httpx.Response) -> Iterator[dict[str, Any]]:
    """Yield the JSON events of an OpenAI-style stream, which ends with `[DONE]`.

    The response is read to its end, so that its connection can take the next request.

    Raises:
        GptossError: The server answered with an error, at once or in mid-stream, or broke off.
    """
    if response.status_code != 200:
        response.read()
        raise GptossError(error_text(response))
    stream = _EventStream()
    for line in response.iter_lines():
        yield from stream.read(line)
    stream.check_ended()


async def async_sse_events(response: httpx.Response) -> AsyncIterator[dict[str, Any]]:
    """Do as `sse_events` with a response of an `httpx.AsyncClient`."""
    if response.status_code != 200:
        await response.aread()
        raise GptossError(error_text(response))
    stream = _EventStream()
    async for line in response.aiter_lines():
        for event in stream.read(line):
            yield event
    stream.check_ended()


class _EventStream:
    """The lines of a stream, one after the other."""

    def __init__(self) -> None:
        self._is_whole = False

    def read(self, line: str) -> Iterator[dict[str, Any]]:
        """Yield the event of a line, if it has one; GptossError where it is an error."""
        if line == _END:
            self._is_whole = True
        elif line.startswith(_EVENT):
            yield _event(line)

    def check_ended(self) -> None:
        """Raise GptossError unless the last event was there."""
        if not self._is_whole:
            raise GptossError(_ENDED_EARLY)


def _event(line: str) -> dict[str, Any]:
    event: dict[str, Any] = json.loads(line.removeprefix(_EVENT))
    if "error" in event:
        raise GptossError(str(event["error"].get("message")))
    return event


def error_text(response: httpx.Response) -> str:
    """Return the message of an OpenAI-style error answer, or the bare status of any other."""
    try:
        return f"{response.json()['error']['message']} (HTTP {response.status_code})"
    except (ValueError, KeyError, TypeError):
        return f"{response.request.url} answered HTTP {response.status_code}; is this a gptoss-ray server?"


def unreachable(http: httpx.Client, error: httpx.HTTPError) -> UnavailableError:
    """Make the error for a server that does not answer."""
    return UnavailableError(
        f"no answer from {http.base_url} ({error}); start it with `make serve` or pass --url."
    )


def first_model(http: httpx.Client) -> str:
    """Return the id of the first model that the server lists.

    Raises:
        GptossError: The server does not answer or refuses.
    """
    try:
        response = http.get("/v1/models")
    except httpx.HTTPError as error:
        raise unreachable(http, error) from error
    if response.status_code != 200:
        raise GptossError(error_text(response))
    return str(response.json()["data"][0]["id"])
