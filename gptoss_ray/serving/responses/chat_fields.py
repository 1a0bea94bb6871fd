"""A response's request as the chat that answers it: all but what was said."""

from __future__ import annotations

from typing import Any

from gptoss_ray.errors import InvalidRequestError
from gptoss_ray.serving.openai_types import ChatFields, DrawFields
from gptoss_ray.serving.responses.request import ResponseRequest, TextFormat
from gptoss_ray.serving.responses.tool_table import ToolTable
from gptoss_ray.serving.structured_types import JsonSchemaFormat, ResponseFormat, ToolChoice


def chat_fields(request: ResponseRequest, tools: ToolTable) -> ChatFields:
    """Return the chat that a response is drawn as.

    Raises:
        InvalidRequestError: `tool_choice` demands a call and leaves no tool for it.
    """
    shared: dict[str, Any] = {name: getattr(request, name) for name in DrawFields.model_fields}
    return ChatFields(
        **shared,
        max_completion_tokens=request.max_output_tokens,
        reasoning_effort=request.reasoning.effort if request.reasoning else None,
        logprobs=request.wants_logprobs,
        top_logprobs=(request.top_logprobs or 0) if request.wants_logprobs else None,
        tools=[tool.definition for tool in tools.offered] or None,
        tool_choice=_tool_choice(request, tools),
        response_format=_response_format(request.text.format if request.text else None),
    )


def _tool_choice(request: ResponseRequest, tools: ToolTable) -> ToolChoice | None:
    choice = request.tool_choice
    if choice is None:
        return None
    if choice.refs is None:
        return ToolChoice(choice.mode)
    names = tuple(tools.shown_name(ref) for ref in choice.refs)
    if choice.mode == "required" and not names:
        raise InvalidRequestError(
            "tool_choice asks for a call, but allows only tools that this server does not have.",
            param="tool_choice",
        )
    return ToolChoice(choice.mode, names)


def _response_format(wanted: TextFormat | None) -> ResponseFormat | None:
    if wanted is None:
        return None
    if wanted.type != "json_schema" or wanted.name is None:
        return ResponseFormat(type=wanted.type)
    schema = JsonSchemaFormat(
        name=wanted.name, description=wanted.description, schema=wanted.schema_, strict=wanted.strict
    )
    return ResponseFormat(type="json_schema", json_schema=schema)
