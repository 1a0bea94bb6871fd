"""Talking to a gptoss_ray server, or any OpenAI-compatible one, over HTTP from the command line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx

from gptoss_ray.errors import GptossError, UnavailableError


def bearer(api_key: str | None) -> dict[str, str]:
    """Return the header that carries an API key; empty without one."""
    return {"authorization": f"Bearer {api_key}"} if api_key else {}


def sse_events(response: httpx.Response) -> Iterator[dict[str, Any]]:
    """Yield the JSON events of an OpenAI-style stream until `[DONE]`.

    Raises:
        GptossError: The server answered with an error, at once or in mid-stream.
    """
    if response.status_code != 200:
        response.read()
        raise GptossError(error_text(response))
    for line in response.iter_lines():
        if not line.startswith("data: "):
            continue
        if line == "data: [DONE]":
            return
        event = json.loads(line.removeprefix("data: "))
        if "error" in event:
            raise GptossError(str(event["error"].get("message")))
        yield event
    raise GptossError("The stream ended early; the server may have stopped.")


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
