"""The stored responses of one tenant, and what has become of each."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from typing import Literal

from pydantic_core import to_json

from gptoss_ray.errors import GptossError
from gptoss_ray.serving.responses.failure import failure_of
from gptoss_ray.serving.responses.objects import ResponseObject
from gptoss_ray.serving.responses.stored_response import (
    MAX_PAGE_BYTES,
    EventPage,
    Progress,
    StoredItem,
    StoredResponse,
    without_output,
)

EndStatus = Literal["failed", "cancelled"]

ENTRY_BYTES = 1024
"""What a response takes beside its JSON, roughly."""

ITEM_BYTES = 256
"""What an item or event takes beside its JSON, roughly."""


@dataclass
class StoreEntry:
    """A response and the events that can be read again; `num_events` counts those that were dropped, too."""

    kept: StoredResponse
    is_ended: bool
    heard_of_s: float
    events: list[bytes] = field(default_factory=list)
    num_events: int = 0
    num_event_bytes: int = 0

    @property
    def num_bytes(self) -> int:
        """How much the response takes."""
        items = (*self.kept.input, *self.kept.output)
        num_item_bytes = sum(len(item.json) for item in items) + len(items) * ITEM_BYTES
        return ENTRY_BYTES + len(self.kept.response) + num_item_bytes + self.num_event_bytes

    def add_events(self, events: tuple[bytes, ...]) -> None:
        """Add events where they are kept."""
        if self.kept.keeps_events:
            self.events += events
            self.num_events += len(events)
            self.num_event_bytes += sum(map(len, events)) + len(events) * ITEM_BYTES

    def page(self, after: int) -> EventPage:
        """Return the events behind number `after`, a page at most."""
        page: list[bytes] = []
        num_bytes = 0
        start = max(after + 1 - (self.num_events - len(self.events)), 0)
        for event in self.events[start:]:
            page.append(event)
            num_bytes += len(event)
            if num_bytes >= MAX_PAGE_BYTES:
                break
        is_all = start + len(page) >= len(self.events)
        return EventPage(tuple(page), is_end=self.is_ended and is_all)


class TenantShelf:
    """Entries, the least recently used first.

    Attributes:
        num_bytes: How much they take.
    """

    def __init__(self) -> None:
        self.num_bytes = 0
        self._entries: OrderedDict[str, StoreEntry] = OrderedDict()
        self._homes: dict[str, str] = {}
        self._running: dict[str, StoreEntry] = {}

    def __len__(self) -> int:
        """How many there are."""
        return len(self._entries)

    def add(self, entry: StoreEntry) -> None:
        """Add a response."""
        self._entries[entry.kept.id] = entry
        self.num_bytes += entry.num_bytes
        self._note_running(entry)
        self._index(entry)

    def has(self, response_id: str) -> bool:
        """Whether a response is there."""
        return response_id in self._entries

    def use(self, response_id: str) -> StoreEntry | None:
        """Return a response, now the most recently used."""
        entry = self._entries.get(response_id)
        if entry is not None:
            self._entries.move_to_end(response_id)
        return entry

    def find_item(self, item_id: str) -> StoredItem | None:
        """Return an item of any of the responses."""
        entry = self.use(self._homes.get(item_id, ""))
        items = (*entry.kept.input, *entry.kept.output) if entry else ()
        return next((item for item in items if item.id == item_id), None)

    def advance(self, entry: StoreEntry, progress: Progress, *, now_s: float) -> None:
        """Note what a response has come to."""
        entry.heard_of_s = now_s
        self.num_bytes -= entry.num_bytes
        entry.kept = replace(
            entry.kept,
            response=entry.kept.response if progress.response is None else progress.response,
            output=entry.kept.output + progress.output,
        )
        entry.add_events(progress.events)
        entry.is_ended = progress.is_end
        self._note_running(entry)
        self.num_bytes += entry.num_bytes
        self._index(entry)

    def end(self, entry: StoreEntry, status: EndStatus, error: GptossError | None) -> None:
        """End a response from outside, with an event that says so."""
        self.num_bytes -= entry.num_bytes
        response: ResponseObject = entry.kept.object()
        response["status"] = status
        response["error"] = failure_of(error) if error else None
        entry.kept = replace(entry.kept, response=without_output(response))
        event = {"type": "response.failed", "sequence_number": entry.num_events, "response": response}
        entry.add_events((to_json(event),))
        entry.is_ended = True
        self._note_running(entry)
        self.num_bytes += entry.num_bytes

    def left_by(self, owner: str, running: Collection[str], *, before_s: float) -> list[StoreEntry]:
        """Return what an owner works on no more, not heard of since, though it has no end."""
        return [
            entry
            for response_id, entry in self._running.items()
            if entry.kept.owner == owner and response_id not in running and entry.heard_of_s < before_s
        ]

    def drop_events(self, entry: StoreEntry) -> None:
        """Forget the events of a response."""
        self.num_bytes -= entry.num_event_bytes
        entry.events.clear()
        entry.num_event_bytes = 0

    def drop(self, response_id: str) -> None:
        """Forget a response, if it is there."""
        entry = self._entries.pop(response_id, None)
        if entry is None:
            return
        self.num_bytes -= entry.num_bytes
        self._running.pop(response_id, None)
        for item in (*entry.kept.input, *entry.kept.output):
            if self._homes.get(item.id) == response_id:
                del self._homes[item.id]

    def drop_least_used(self, *, keep: str) -> bool:
        """Forget the least recently used response that is not worked on; return whether there was one."""
        for response_id, entry in self._entries.items():
            if entry.is_ended and response_id != keep:
                self.drop(response_id)
                return True
        return False

    def _note_running(self, entry: StoreEntry) -> None:
        if entry.is_ended:
            self._running.pop(entry.kept.id, None)
        else:
            self._running[entry.kept.id] = entry

    def _index(self, entry: StoreEntry) -> None:
        for item in (*entry.kept.input, *entry.kept.output):
            self._homes[item.id] = entry.kept.id
