"""A message for the user as an output item with one part."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from gptoss_ray.serving.chat_assembler import ChatDelta
from gptoss_ray.serving.openai_answers import ContentLogprob
from gptoss_ray.serving.openai_json import content_logprobs
from gptoss_ray.serving.responses.events import ResponseEvent
from gptoss_ray.serving.responses.item_writer import ItemWriter, Numbers
from gptoss_ray.serving.responses.objects import ItemStatus, OutputMessage, OutputText


class MessageWriter(ItemWriter):
    """See `ItemWriter`.

    Args:
        numbers: Of the response.
        output_index: The item's place in the output.
        first: The message's first delta tells which of the model's messages it is, and its phase.
    """

    def __init__(self, numbers: Numbers, output_index: int, first: ChatDelta) -> None:
        super().__init__(numbers, output_index, "msg")
        self._message_index = first.message_index
        self._is_remark = first.is_remark
        self._has_part = False
        self._texts: list[str] = []
        self._logprobs: list[ContentLogprob] = []

    def takes(self, delta: ChatDelta) -> bool:
        """See `ItemWriter`."""
        is_content = bool(delta.content or delta.logprobs)
        return is_content and delta.message_index == self._message_index

    def open(self) -> Iterator[ResponseEvent]:
        """See `ItemWriter`."""
        yield from super().open()
        self._has_part = True
        yield self._part_event("response.content_part.added", 0, _part("", ()))

    def feed(self, delta: ChatDelta) -> Iterator[ResponseEvent]:
        """See `ItemWriter`."""
        logprobs = content_logprobs(delta.logprobs)
        self._texts.append(delta.content)
        self._logprobs += logprobs
        yield {
            "type": "response.output_text.delta",
            "sequence_number": next(self._numbers),
            "item_id": self._id,
            "output_index": self._output_index,
            "content_index": 0,
            "delta": delta.content,
            "logprobs": logprobs,
        }

    def item(self, status: ItemStatus) -> OutputMessage:
        """See `ItemWriter`."""
        return {
            "id": self._id,
            "type": "message",
            "role": "assistant",
            "status": status,
            "phase": "commentary" if self._is_remark else "final_answer",
            "content": [_part("".join(self._texts), self._logprobs)] if self._has_part else [],
        }

    def _finish(self) -> Iterator[ResponseEvent]:
        text = "".join(self._texts)
        yield {
            "type": "response.output_text.done",
            "sequence_number": next(self._numbers),
            "item_id": self._id,
            "output_index": self._output_index,
            "content_index": 0,
            "text": text,
            "logprobs": self._logprobs,
        }
        yield self._part_event("response.content_part.done", 0, _part(text, self._logprobs))


def _part(text: str, logprobs: Sequence[ContentLogprob]) -> OutputText:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": [*logprobs]}
