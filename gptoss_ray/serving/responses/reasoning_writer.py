"""A run of thought as an output item; each of the model's messages in it is a part."""

from __future__ import annotations

from collections.abc import Iterator

from gptoss_ray.serving.chat_assembler import ChatDelta
from gptoss_ray.serving.responses.events import ResponseEvent
from gptoss_ray.serving.responses.item_writer import ItemWriter, Numbers
from gptoss_ray.serving.responses.objects import ItemStatus, ReasoningItem, ReasoningText


class ReasoningWriter(ItemWriter):
    """See `ItemWriter`."""

    def __init__(self, numbers: Numbers, output_index: int) -> None:
        super().__init__(numbers, output_index, "rs")
        self._parts: list[list[str]] = []
        self._message_index: int | None = None

    def takes(self, delta: ChatDelta) -> bool:
        """See `ItemWriter`."""
        return bool(delta.reasoning)

    def feed(self, delta: ChatDelta) -> Iterator[ResponseEvent]:
        """See `ItemWriter`."""
        if delta.message_index != self._message_index:
            yield from self._finish()
            self._message_index = delta.message_index
            self._parts.append([])
            yield self._part_event("response.content_part.added", self._content_index, _part(""))
        self._parts[-1].append(delta.reasoning)
        yield {
            "type": "response.reasoning_text.delta",
            "sequence_number": next(self._numbers),
            "item_id": self._id,
            "output_index": self._output_index,
            "content_index": self._content_index,
            "delta": delta.reasoning,
        }

    def item(self, status: ItemStatus) -> ReasoningItem:
        """See `ItemWriter`."""
        return {
            "id": self._id,
            "type": "reasoning",
            "summary": [],
            "content": [_part("".join(part)) for part in self._parts],
            "encrypted_content": None,
            "status": status,
        }

    @property
    def _content_index(self) -> int:
        return len(self._parts) - 1

    def _finish(self) -> Iterator[ResponseEvent]:
        if not self._parts:
            return
        text = "".join(self._parts[-1])
        yield {
            "type": "response.reasoning_text.done",
            "sequence_number": next(self._numbers),
            "item_id": self._id,
            "output_index": self._output_index,
            "content_index": self._content_index,
            "text": text,
        }
        yield self._part_event("response.content_part.done", self._content_index, _part(text))


def _part(text: str) -> ReasoningText:
    return {"type": "reasoning_text", "text": text}
