"""The events of a response under way, in the order of `docs/api.md`; the last one ends the stream."""

from __future__ import annotations

from typing import Literal

from typing_extensions import TypedDict

from gptoss_ray.serving.openai_answers import ContentLogprob
from gptoss_ray.serving.responses.objects import ContentPart, OutputItem, ResponseObject

END_TYPES = ("response.completed", "response.incomplete", "response.failed")
"""Of the last event."""


class _Event(TypedDict):
    sequence_number: int


class _ItemEvent(_Event):
    item_id: str
    output_index: int


class _PartEvent(_ItemEvent):
    content_index: int


class ResponseProgress(_Event):
    """The response at its start, or as it begins to be worked on."""

    type: Literal["response.created", "response.queued", "response.in_progress"]
    response: ResponseObject


class ResponseEnd(_Event):
    """The whole response, at its end; always the last event."""

    type: Literal["response.completed", "response.incomplete", "response.failed"]
    response: ResponseObject


class OutputItemEvent(_Event):
    """An item at its start, still empty, or whole at its end."""

    type: Literal["response.output_item.added", "response.output_item.done"]
    output_index: int
    item: OutputItem


class ContentPartEvent(_PartEvent):
    """A part of an item at its start, still empty, or whole at its end."""

    type: Literal["response.content_part.added", "response.content_part.done"]
    part: ContentPart


class ReasoningDelta(_PartEvent):
    """A piece of thought."""

    type: Literal["response.reasoning_text.delta"]
    delta: str


class ReasoningDone(_PartEvent):
    """A part of thought as a whole."""

    type: Literal["response.reasoning_text.done"]
    text: str


class TextDelta(_PartEvent):
    """A piece of a message; its log probabilities, where they were asked for."""

    type: Literal["response.output_text.delta"]
    delta: str
    logprobs: list[ContentLogprob]


class TextDone(_PartEvent):
    """A message as a whole."""

    type: Literal["response.output_text.done"]
    text: str
    logprobs: list[ContentLogprob]


class ArgumentsDelta(_ItemEvent):
    """A piece of a call's arguments, which are JSON text."""

    type: Literal["response.function_call_arguments.delta"]
    delta: str


class ArgumentsDone(_ItemEvent):
    """A call's arguments as a whole."""

    type: Literal["response.function_call_arguments.done"]
    name: str
    arguments: str


class CustomInputDelta(_ItemEvent):
    """The text for a custom tool; it comes in one piece."""

    type: Literal["response.custom_tool_call_input.delta"]
    delta: str


class CustomInputDone(_ItemEvent):
    """The text for a custom tool as a whole."""

    type: Literal["response.custom_tool_call_input.done"]
    input: str


ResponseEvent = (
    ResponseProgress
    | ResponseEnd
    | OutputItemEvent
    | ContentPartEvent
    | ReasoningDelta
    | ReasoningDone
    | TextDelta
    | TextDone
    | ArgumentsDelta
    | ArgumentsDone
    | CustomInputDelta
    | CustomInputDone
)
