"""What crosses to the store of responses and back: plain data, its JSON already written."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from pydantic_core import from_json, to_json

from gptoss_ray.serving.responses.objects import ResponseObject

MAX_PAGE_BYTES = 1 << 20
"""Of the events that are read at once."""


class StoredItem(NamedTuple):
    """An item of an input or output: its id and its JSON."""

    id: str
    json: bytes


@dataclass(frozen=True, slots=True)
class StoredResponse:
    """A response as it is kept.

    Attributes:
        tenant: Whose it is.
        id: Of the response.
        response: JSON of the response object, without its output.
        input: Its own input, not that of earlier responses.
        output: Items that are complete.
        previous_id: The response that it goes on from.
        owner: The ingress that works on it in the background; None: it is not in the background.
        keeps_events: Whether its events can be read again.
    """

    tenant: str
    id: str
    response: bytes
    input: tuple[StoredItem, ...]
    output: tuple[StoredItem, ...] = ()
    previous_id: str | None = None
    owner: str | None = None
    keeps_events: bool = False

    def object(self) -> ResponseObject:
        """Return the response object."""
        response: ResponseObject = from_json(self.response)
        return {**response, "output": [from_json(item.json) for item in self.output]}


@dataclass(frozen=True, slots=True)
class Progress:
    """What a background response has come to since its owner told last.

    Attributes:
        events: JSON of its new events; empty where they are not kept.
        response: As `StoredResponse.response`; None: as it was.
        output: Items that are complete since.
        is_end: Whether nothing follows.
    """

    events: tuple[bytes, ...]
    response: bytes | None
    output: tuple[StoredItem, ...]
    is_end: bool


@dataclass(frozen=True, slots=True)
class EventPage:
    """Events from a number on, at most `MAX_PAGE_BYTES` and one; `is_end`: nothing follows them."""

    events: tuple[bytes, ...]
    is_end: bool


def stored_items(items: Iterable[Mapping[str, Any]]) -> tuple[StoredItem, ...]:
    """Return items as they are kept; each has an id."""
    return tuple(StoredItem(item["id"], to_json(item)) for item in items)


def without_output(response: ResponseObject) -> bytes:
    """Return the JSON of a response object without its output."""
    return to_json({**response, "output": []})
