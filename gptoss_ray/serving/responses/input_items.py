"""Items of a request's `input`: what was said, thought and called, and what calls gave back."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag

from gptoss_ray.serving.openai_types import RefusalPart, TextPart, join_parts
from gptoss_ray.serving.request_fields import Items, RequestFields
from gptoss_ray.serving.responses.objects import MessagePhase

Text = Annotated[
    str | None,
    BeforeValidator(join_parts, json_schema_input_type=str | list[TextPart | RefusalPart] | None),
]
"""A string, or a list of text parts, which are put together."""


class ItemFields(RequestFields):
    """What all items may have."""

    id: str | None = None
    status: str | None = None


class MessageItem(ItemFields):
    """A message; `phase` "commentary" is what an assistant said before a call."""

    type: Literal["message"] = "message"
    role: Literal["system", "developer", "user", "assistant"]
    content: Text = None
    phase: MessagePhase | None = None


class ReasoningPart(RequestFields):
    """A part of thought, or of its summary."""

    type: Literal["reasoning_text", "summary_text", "text"]
    text: str


class ReasoningInput(ItemFields):
    """What the model thought; of an item without content its summary is taken."""

    type: Literal["reasoning"]
    content: Items[ReasoningPart] | None = None
    summary: Items[ReasoningPart] | None = None
    encrypted_content: str | None = None

    @property
    def texts(self) -> list[str]:
        """The texts, a model's message each."""
        return [part.text for part in self.content or self.summary or () if part.text]


class FunctionCallInput(ItemFields):
    """A call that the model made; `arguments` is JSON text."""

    type: Literal["function_call"]
    call_id: str
    name: str
    namespace: str | None = None
    arguments: str


class CustomToolCallInput(ItemFields):
    """A call of a custom tool that the model made."""

    type: Literal["custom_tool_call"]
    call_id: str
    name: str
    namespace: str | None = None
    input: str


class CallOutputInput(ItemFields):
    """What a call gave back."""

    type: Literal["function_call_output", "custom_tool_call_output"]
    call_id: str
    output: Text = None


class ItemReference(RequestFields):
    """An item of a stored response, by its id."""

    type: Literal["item_reference"] | None = None
    id: str


AnyInputItem = MessageItem | ReasoningInput | FunctionCallInput | CustomToolCallInput | CallOutputInput
"""An item that says something itself."""


def _kind(item: Any) -> str | None:
    """Return the tag of an item's type; messages, and references too, may leave it out."""
    if not isinstance(item, dict):
        return {ItemReference: "@item_reference"}.get(type(item), f"@{getattr(item, 'type', None)}")
    kind = item.get("type")
    if kind is None:
        kind = "item_reference" if "id" in item and "role" not in item else "message"
    return f"@{kind}" if isinstance(kind, str) else None


AnyItem = Annotated[
    Annotated[MessageItem, Tag("@message")]
    | Annotated[ReasoningInput, Tag("@reasoning")]
    | Annotated[FunctionCallInput, Tag("@function_call")]
    | Annotated[CustomToolCallInput, Tag("@custom_tool_call")]
    | Annotated[CallOutputInput, Tag("@function_call_output")]
    | Annotated[CallOutputInput, Tag("@custom_tool_call_output")]
    | Annotated[ItemReference, Tag("@item_reference")],
    Discriminator(
        _kind,
        custom_error_type="wrong_value",
        custom_error_message=(
            "has a type that is not supported; send message, reasoning, function_call, function_call_output, "
            "custom_tool_call, custom_tool_call_output or item_reference"
        ),
    ),
]


def _as_items(value: Any) -> Any:
    """Turn a string into the user's message, and null into no item."""
    if isinstance(value, str):
        return [{"type": "message", "role": "user", "content": value}]
    return [] if value is None else value


InputField = Annotated[
    Items[AnyItem],
    BeforeValidator(_as_items, json_schema_input_type=str | list[AnyItem] | None),
    Field(default_factory=list),
]
