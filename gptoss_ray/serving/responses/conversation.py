"""Items of a response's input as the messages that the prompt is made of, one for each."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from gptoss_ray.errors import InvalidRequestError
from gptoss_ray.harmony.prompt import Message, ToolCall, check_name
from gptoss_ray.serving.chat_prompt import Recall
from gptoss_ray.serving.responses.input_items import (
    AnyInputItem,
    CallOutputInput,
    CustomToolCallInput,
    FunctionCallInput,
    MessageItem,
    ReasoningInput,
)
from gptoss_ray.serving.responses.tool_choice import ToolRef
from gptoss_ray.serving.responses.tool_table import CUSTOM_INPUT

ShownName = Callable[[ToolRef], str]


@dataclass(frozen=True, slots=True)
class PlacedItem:
    """An item and its path in the request; items of an earlier response have the path that names that."""

    item: AnyInputItem
    path: str

    def field(self, name: str) -> str:
        """Return the path of one of the item's fields."""
        return f"{self.path}.{name}" if self.path.startswith("input") else self.path


@dataclass
class Conversation:
    """Messages, and for each the path of its text in the request."""

    messages: list[Message] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)

    def add(self, message: Message, path: str) -> None:
        """Add a message at the end."""
        self.messages.append(message)
        self.paths.append(path)


def conversation_of(
    instructions: str | None, items: Iterable[PlacedItem], shown_name: ShownName, recall: Recall
) -> Conversation:
    """Return the messages of a request.

    A message of the assistant is a remark, said before a call, where its phase says so, and where it has none
    but a call follows in the same turn. What the model thought before a call and the client left out comes
    from `recall`.

    Raises:
        InvalidRequestError: An item refers to none before it; `param` names the field.
    """
    builder = _Builder(shown_name, recall)
    if instructions:
        builder.conversation.add(Message("system", instructions), "instructions")
    for placed in items:
        builder.add(placed)
    builder.end_turn()
    return builder.conversation


class _Builder:
    """Adds items; those of an assistant's turn wait until it is known what follows in it."""

    def __init__(self, shown_name: ShownName, recall: Recall) -> None:
        self.conversation = Conversation()
        self._shown_name = shown_name
        self._recall = recall
        self._turn: list[PlacedItem] = []
        self._call_names: dict[str, str] = {}

    def add(self, placed: PlacedItem) -> None:
        item = placed.item
        if isinstance(item, CallOutputInput):
            self.end_turn()
            self._output(item, placed)
        elif isinstance(item, MessageItem) and item.role != "assistant":
            self.end_turn()
            self.conversation.add(Message(item.role, item.content), placed.field("content"))
        else:
            self._turn.append(placed)

    def end_turn(self) -> None:
        """Write what the assistant did since anybody else spoke."""
        turn, self._turn = self._turn, []
        calls = [index for index, placed in enumerate(turn) if _is_call(placed)]
        last_call = calls[-1] if calls else -1
        if calls and not any(isinstance(placed.item, ReasoningInput) for placed in turn):
            self._remembered(turn)
        for index, placed in enumerate(turn):
            self._assistant(placed, comes_before_call=index < last_call)

    def _remembered(self, turn: Sequence[PlacedItem]) -> None:
        call_ids = [
            placed.item.call_id
            for placed in turn
            if isinstance(placed.item, FunctionCallInput | CustomToolCallInput)
        ]
        if reasoning := self._recall(call_ids):
            self.conversation.add(Message("assistant", reasoning=reasoning), turn[0].path)

    def _assistant(self, placed: PlacedItem, *, comes_before_call: bool) -> None:
        item = placed.item
        if isinstance(item, ReasoningInput):
            for text in item.texts:
                self.conversation.add(Message("assistant", reasoning=text), placed.field("content"))
        elif isinstance(item, MessageItem):
            is_remark = item.phase == "commentary" or (item.phase is None and comes_before_call)
            if item.content or not is_remark:
                message = Message("assistant", item.content or "", is_remark=is_remark)
                self.conversation.add(message, placed.field("content"))
        elif isinstance(item, FunctionCallInput):
            self._call(item, item.arguments, placed, "arguments")
        elif isinstance(item, CustomToolCallInput):
            arguments = json.dumps({CUSTOM_INPUT: item.input}, ensure_ascii=False, separators=(",", ":"))
            self._call(item, arguments, placed, "input")

    def _call(
        self,
        item: FunctionCallInput | CustomToolCallInput,
        arguments: str,
        placed: PlacedItem,
        text_field: str,
    ) -> None:
        check_name(item.name, placed.field("name"))
        if item.namespace is not None:
            check_name(item.namespace, placed.field("namespace"))
        name = self._shown_name(ToolRef(item.name, item.namespace))
        self._call_names[item.call_id] = name
        call = ToolCall(item.call_id, name, arguments)
        self.conversation.add(Message("assistant", tool_calls=(call,)), placed.field(text_field))

    def _output(self, item: CallOutputInput, placed: PlacedItem) -> None:
        name = self._call_names.get(item.call_id)
        if name is None:
            path = placed.field("call_id")
            raise InvalidRequestError(
                f"{path} is {item.call_id[:80]!r}, which is the id of no earlier call; send the item of that "
                "call before its output, or the previous_response_id of the response that made it.",
                param=path,
            )
        message = Message("tool", item.output, tool_call_id=item.call_id, name=name)
        self.conversation.add(message, placed.field("output"))


def _is_call(placed: PlacedItem) -> bool:
    return isinstance(placed.item, FunctionCallInput | CustomToolCallInput)
