"""A chat's deltas as the events of a response: an item for each run of thought, message and call."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from typing import Literal

from gptoss_ray.errors import GptossError
from gptoss_ray.serving.answer import Usage
from gptoss_ray.serving.chat_assembler import ChatDelta
from gptoss_ray.serving.responses.call_writers import call_writer
from gptoss_ray.serving.responses.events import ResponseEnd, ResponseEvent, ResponseProgress
from gptoss_ray.serving.responses.failure import failure_of
from gptoss_ray.serving.responses.item_writer import ItemWriter
from gptoss_ray.serving.responses.message_writer import MessageWriter
from gptoss_ray.serving.responses.objects import OutputItem, ResponseObject
from gptoss_ray.serving.responses.reasoning_writer import ReasoningWriter
from gptoss_ray.serving.responses.response_object import usage_of
from gptoss_ray.serving.responses.tool_table import ToolTable


class ResponseWriter:
    """Writes one response.

    Attributes:
        response: Its state, without its output.
        output: The items that are complete.
    """

    def __init__(self, response: ResponseObject, tools: ToolTable) -> None:
        self.response = response
        self.output: list[OutputItem] = []
        self._tools = tools
        self._numbers = count()
        self._open: ItemWriter | None = None
        self._finish_reason = "stop"

    def create(self) -> Iterator[ResponseEvent]:
        """Yield what comes first."""
        yield self._progress("response.created")
        if self.response["status"] == "queued":
            yield self._progress("response.queued")

    def begin(self) -> Iterator[ResponseEvent]:
        """Yield that the model works on it."""
        self.response["status"] = "in_progress"
        yield self._progress("response.in_progress")

    def feed(self, delta: ChatDelta) -> Iterator[ResponseEvent]:
        """Yield what a delta adds."""
        if delta.finish_reason is not None:
            self._finish_reason = delta.finish_reason
            return
        if self._open is None or not self._open.takes(delta):
            yield from self._close()
            self._open = self._writer(delta)
            yield from self._open.open()
        yield from self._open.feed(delta)

    def complete_items(self) -> Iterator[ResponseEvent]:
        """Yield what is left of the items; an answer without a word is a message without text."""
        if self._finish_reason == "stop" and isinstance(self._open, ReasoningWriter | None):
            yield from self._close()
            self._open = self._writer(ChatDelta(0))
            yield from self._open.open()
        yield from self._close(is_cut=self._finish_reason == "length")

    def end(self, usage: Usage, *, now: int) -> ResponseEnd:
        """Return the last event; its response is complete, or was cut at its limit of tokens."""
        self.response["usage"] = usage_of(usage)
        if self._finish_reason == "length":
            self.response["status"] = "incomplete"
            self.response["incomplete_details"] = {"reason": "max_output_tokens"}
            return self._end("response.incomplete")
        self.response["status"] = "completed"
        self.response["completed_at"] = now
        return self._end("response.completed")

    def fail(self, error: GptossError, usage: Usage) -> ResponseEnd:
        """Return the last event of a response that failed; items that were complete by then are in it."""
        self.response["usage"] = usage_of(usage)
        self.response["status"] = "failed"
        self.response["error"] = failure_of(error)
        return self._end("response.failed")

    def snapshot(self) -> ResponseObject:
        """Return the response as it is now."""
        return {**self.response, "output": [*self.output]}

    def _writer(self, delta: ChatDelta) -> ItemWriter:
        index = len(self.output)
        if delta.tool_call is not None:
            return call_writer(self._numbers, index, delta.tool_call, self._tools)
        if delta.reasoning:
            return ReasoningWriter(self._numbers, index)
        return MessageWriter(self._numbers, index, delta)

    def _close(self, *, is_cut: bool = False) -> Iterator[ResponseEvent]:
        if self._open is not None:
            status: Literal["incomplete", "completed"] = "incomplete" if is_cut else "completed"
            yield from self._open.close(status)
            self.output.append(self._open.item(status))
            self._open = None

    def _progress(
        self, kind: Literal["response.created", "response.queued", "response.in_progress"]
    ) -> ResponseProgress:
        return {"type": kind, "sequence_number": next(self._numbers), "response": self.snapshot()}

    def _end(
        self, kind: Literal["response.completed", "response.incomplete", "response.failed"]
    ) -> ResponseEnd:
        return {"type": kind, "sequence_number": next(self._numbers), "response": self.snapshot()}
