"""Calls as output items: of functions, and of custom tools."""

from __future__ import annotations

import json
from collections.abc import Iterator

from gptoss_ray.serving.chat_assembler import ChatDelta, ToolCallDelta
from gptoss_ray.serving.responses.events import ResponseEvent
from gptoss_ray.serving.responses.item_writer import ItemWriter, Numbers
from gptoss_ray.serving.responses.objects import CustomToolCallItem, FunctionCallItem, ItemStatus
from gptoss_ray.serving.responses.tool_choice import ToolRef
from gptoss_ray.serving.responses.tool_table import CUSTOM_INPUT, ToolTable


def call_writer(numbers: Numbers, output_index: int, first: ToolCallDelta, tools: ToolTable) -> ItemWriter:
    """Return what writes the call that a delta begins; a tool that was never offered is a function."""
    tool = tools.called(first.name)
    if tool is None:
        return FunctionCallWriter(numbers, output_index, first.id, ToolRef(first.name))
    kind = CustomCallWriter if tool.is_custom else FunctionCallWriter
    return kind(numbers, output_index, first.id, tool.ref)


class _CallWriter(ItemWriter):
    def __init__(
        self, numbers: Numbers, output_index: int, id_prefix: str, call_id: str, ref: ToolRef
    ) -> None:
        super().__init__(numbers, output_index, id_prefix)
        self._call_id = call_id
        self._ref = ref
        self._pieces: list[str] = []

    def takes(self, delta: ChatDelta) -> bool:
        """See `ItemWriter`."""
        return delta.tool_call is not None and delta.tool_call.id in ("", self._call_id)

    @property
    def _arguments(self) -> str:
        return "".join(self._pieces)


class FunctionCallWriter(_CallWriter):
    """See `ItemWriter`."""

    def __init__(self, numbers: Numbers, output_index: int, call_id: str, ref: ToolRef) -> None:
        super().__init__(numbers, output_index, "fc", call_id, ref)

    def feed(self, delta: ChatDelta) -> Iterator[ResponseEvent]:
        """See `ItemWriter`."""
        arguments = delta.tool_call.arguments if delta.tool_call else ""
        if arguments:
            self._pieces.append(arguments)
            yield {
                "type": "response.function_call_arguments.delta",
                "sequence_number": next(self._numbers),
                "item_id": self._id,
                "output_index": self._output_index,
                "delta": arguments,
            }

    def item(self, status: ItemStatus) -> FunctionCallItem:
        """See `ItemWriter`."""
        item: FunctionCallItem = {
            "id": self._id,
            "type": "function_call",
            "call_id": self._call_id,
            "name": self._ref.name,
            "arguments": self._arguments,
            "status": status,
        }
        if self._ref.namespace is not None:
            item["namespace"] = self._ref.namespace
        return item

    def _finish(self) -> Iterator[ResponseEvent]:
        yield {
            "type": "response.function_call_arguments.done",
            "sequence_number": next(self._numbers),
            "item_id": self._id,
            "output_index": self._output_index,
            "name": self._ref.name,
            "arguments": self._arguments,
        }


class CustomCallWriter(_CallWriter):
    """See `ItemWriter`; the text is told in one piece, because it is known once its JSON is whole."""

    def __init__(self, numbers: Numbers, output_index: int, call_id: str, ref: ToolRef) -> None:
        super().__init__(numbers, output_index, "ctc", call_id, ref)

    def feed(self, delta: ChatDelta) -> Iterator[ResponseEvent]:
        """See `ItemWriter`."""
        if delta.tool_call is not None:
            self._pieces.append(delta.tool_call.arguments)
        yield from ()

    def item(self, status: ItemStatus) -> CustomToolCallItem:
        """See `ItemWriter`."""
        item: CustomToolCallItem = {
            "id": self._id,
            "type": "custom_tool_call",
            "call_id": self._call_id,
            "name": self._ref.name,
            "input": _custom_input(self._arguments),
            "status": status,
        }
        if self._ref.namespace is not None:
            item["namespace"] = self._ref.namespace
        return item

    def _finish(self) -> Iterator[ResponseEvent]:
        text = _custom_input(self._arguments)
        yield {
            "type": "response.custom_tool_call_input.delta",
            "sequence_number": next(self._numbers),
            "item_id": self._id,
            "output_index": self._output_index,
            "delta": text,
        }
        yield {
            "type": "response.custom_tool_call_input.done",
            "sequence_number": next(self._numbers),
            "item_id": self._id,
            "output_index": self._output_index,
            "input": text,
        }


def _custom_input(arguments: str) -> str:
    """Return the text in `{"input": text}`; of a model that wrote something else, what it wrote."""
    try:
        fields = json.loads(arguments)
    except (ValueError, RecursionError):
        return arguments
    text = fields.get(CUSTOM_INPUT) if isinstance(fields, dict) else None
    return text if isinstance(text, str) else arguments
