"""What the writers of output items share: an item is opened with its first piece and closed whole."""

from __future__ import annotations

import uuid
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Literal

from gptoss_ray.serving.chat_assembler import ChatDelta
from gptoss_ray.serving.responses.events import ContentPartEvent, OutputItemEvent, ResponseEvent
from gptoss_ray.serving.responses.objects import ContentPart, ItemStatus, OutputItem

Numbers = Iterator[int]
"""Gives each event of a response its number."""


def new_id(prefix: str) -> str:
    """Return an id that nobody can guess, such as "msg_…"."""
    return f"{prefix}_{uuid.uuid4().hex}"


class ItemWriter(ABC):
    """Writes the events of one item.

    Args:
        numbers: Of the response.
        output_index: The item's place in the output.
        id_prefix: Tells its type in its id.
    """

    def __init__(self, numbers: Numbers, output_index: int, id_prefix: str) -> None:
        self._numbers = numbers
        self._output_index = output_index
        self._id = new_id(id_prefix)

    @abstractmethod
    def takes(self, delta: ChatDelta) -> bool:
        """Whether a delta belongs to this item."""

    @abstractmethod
    def feed(self, delta: ChatDelta) -> Iterator[ResponseEvent]:
        """Yield what a delta adds."""

    @abstractmethod
    def item(self, status: ItemStatus) -> OutputItem:
        """Return the item as it is now."""

    @abstractmethod
    def _finish(self) -> Iterator[ResponseEvent]:
        """Yield the item's text, or its parts, as a whole."""

    def open(self) -> Iterator[ResponseEvent]:
        """Yield what announces the item."""
        yield self._item_event("response.output_item.added", "in_progress")

    def close(self, status: ItemStatus) -> Iterator[ResponseEvent]:
        """Yield what ends the item."""
        yield from self._finish()
        yield self._item_event("response.output_item.done", status)

    def _item_event(
        self, kind: Literal["response.output_item.added", "response.output_item.done"], status: ItemStatus
    ) -> OutputItemEvent:
        return {
            "type": kind,
            "sequence_number": next(self._numbers),
            "output_index": self._output_index,
            "item": self.item(status),
        }

    def _part_event(
        self,
        kind: Literal["response.content_part.added", "response.content_part.done"],
        content_index: int,
        part: ContentPart,
    ) -> ContentPartEvent:
        return {
            "type": kind,
            "sequence_number": next(self._numbers),
            "item_id": self._id,
            "output_index": self._output_index,
            "content_index": content_index,
            "part": part,
        }
