"""Messages of `ResponsesService` to the fields that HTTP requests have."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from gptoss_ray.errors import InvalidRequestError
from gptoss_ray.protos.gptoss.v1 import chat_pb2, responses_pb2
from gptoss_ray.serving.grpc_requests import (
    EFFORTS,
    ROLES,
    TOOL_CHOICES,
    check_length,
    form_fields,
    json_value,
    known,
    sampling_fields,
)
from gptoss_ray.serving.openai_types import parse_fields
from gptoss_ray.serving.responses.api import PageRequest
from gptoss_ray.serving.responses.request import LOGPROBS, ResponseRequest

_PHASES = {
    responses_pb2.MESSAGE_PHASE_UNSPECIFIED: None,
    responses_pb2.MESSAGE_PHASE_COMMENTARY: "commentary",
    responses_pb2.MESSAGE_PHASE_FINAL_ANSWER: "final_answer",
}
_STATUSES = {
    responses_pb2.ITEM_STATUS_UNSPECIFIED: None,
    responses_pb2.ITEM_STATUS_IN_PROGRESS: "in_progress",
    responses_pb2.ITEM_STATUS_COMPLETED: "completed",
    responses_pb2.ITEM_STATUS_INCOMPLETE: "incomplete",
}


def create_response_request(message: responses_pb2.CreateResponseRequest) -> ResponseRequest:
    """Return the same request as HTTP would bring it; raise InvalidRequestError naming a wrong field."""
    return parse_fields(ResponseRequest, _fields(message.response))


def stream_response_request(message: responses_pb2.StreamResponseRequest) -> ResponseRequest:
    """Return the same request as HTTP would bring it; raise InvalidRequestError naming a wrong field."""
    return parse_fields(ResponseRequest, _fields(message.response) | {"stream": True})


def page_request(message: responses_pb2.ListInputItemsRequest) -> PageRequest:
    """Return which items are asked for."""
    return PageRequest(
        limit=message.limit if message.HasField("limit") else PageRequest.limit,
        order="asc" if message.ascending else "desc",
        after=message.after or None,
        before=message.before or None,
    )


def _fields(message: responses_pb2.NewResponse) -> dict[str, Any]:
    check_length("input", len(message.input))
    check_length("tools", len(message.tools))
    check_length("allowed_tools", len(message.allowed_tools))
    sampling = sampling_fields(message.sampling)
    has_logprobs = "top_logprobs" in sampling
    return {
        **sampling,
        "model": message.model,
        "max_tokens": None,
        "max_output_tokens": sampling.get("max_tokens"),
        "include": [LOGPROBS] if has_logprobs else [],
        "input": [_item(item, f"input[{index}]") for index, item in enumerate(message.input)],
        "instructions": message.instructions or None,
        "previous_response_id": message.previous_response_id or None,
        "tools": [_tool(tool, f"tools[{index}]") for index, tool in enumerate(message.tools)],
        "tool_choice": _tool_choice(message),
        "reasoning": {"effort": known(EFFORTS, message.reasoning_effort, "reasoning_effort")},
        "text": _text(message),
        "truncation": "auto" if message.truncates else "disabled",
        "store": message.store if message.HasField("store") else None,
        "background": message.background,
        "metadata": dict(message.metadata),
    }


def _text(message: responses_pb2.NewResponse) -> dict[str, Any] | None:
    wanted = form_fields(message.response_format)
    if not wanted:
        return None
    form = wanted.get("response_format")
    if form is None:
        raise InvalidRequestError(
            "response_format of a response is a json_object or a json_schema.", param="response_format"
        )
    if form["type"] != "json_schema":
        return {"format": form}
    schema = form["json_schema"]
    return {"format": {"type": "json_schema", **schema, "schema": schema["schema"] or {"type": "object"}}}


def _tool_choice(message: responses_pb2.NewResponse) -> Any:
    mode = known(TOOL_CHOICES, message.tool_choice, "tool_choice")
    if not message.allowed_tools:
        return mode
    tools = [
        # The type decides nothing: a name stands for one tool.
        {"type": "function", "name": tool.name, "namespace": tool.namespace or None}
        for tool in message.allowed_tools
    ]
    return {"type": "allowed_tools", "mode": mode or "auto", "tools": tools}


def _tool(tool: responses_pb2.ResponseTool, path: str) -> dict[str, Any]:
    kind = tool.WhichOneof("tool")
    if kind is None:
        raise InvalidRequestError(f"{path} is empty; send a tool.", param=path)
    if kind == "function":
        return _function(tool.function, f"{path}.function")
    if kind == "custom":
        return _custom(tool.custom)
    group = tool.namespace
    check_length(f"{path}.namespace.functions", len(group.functions))
    check_length(f"{path}.namespace.custom_tools", len(group.custom_tools))
    functions = [
        _function(each, f"{path}.namespace.functions[{index}]") for index, each in enumerate(group.functions)
    ]
    return {
        "type": "namespace",
        "name": group.name,
        "description": group.description,
        "tools": [*functions, *map(_custom, group.custom_tools)],
    }


def _function(tool: chat_pb2.Tool, path: str) -> dict[str, Any]:
    return {
        "type": "function",
        "name": tool.name,
        "description": tool.description,
        "parameters": json_value(tool.parameters_json, f"{path}.parameters_json"),
        "strict": tool.strict,
    }


def _custom(tool: responses_pb2.CustomTool) -> dict[str, Any]:
    return {"type": "custom", "name": tool.name, "description": tool.description}


def _item(item: responses_pb2.ResponseItem, path: str) -> dict[str, Any]:
    kind = item.WhichOneof("item")
    if kind is None:
        raise InvalidRequestError(f"{path} is empty; send an item.", param=path)
    if kind == "reference_id":
        return {"type": "item_reference", "id": item.reference_id}
    common = {"id": item.id or None, "status": known(_STATUSES, item.status, f"{path}.status")}
    return common | _ITEMS[kind](item, path)


def _message(item: responses_pb2.ResponseItem, path: str) -> dict[str, Any]:
    said = item.message
    return {
        "type": "message",
        "role": known(ROLES, said.role, f"{path}.message.role"),
        "content": said.text,
        "phase": known(_PHASES, said.phase, f"{path}.message.phase"),
    }


def _reasoning(item: responses_pb2.ResponseItem, path: str) -> dict[str, Any]:
    check_length(f"{path}.reasoning.texts", len(item.reasoning.texts))
    parts = [{"type": "reasoning_text", "text": text} for text in item.reasoning.texts]
    return {"type": "reasoning", "content": parts}


def _function_call(item: responses_pb2.ResponseItem, _path: str) -> dict[str, Any]:
    call = item.function_call
    return {
        "type": "function_call",
        "call_id": call.call_id,
        "name": call.name,
        "namespace": call.namespace or None,
        "arguments": call.arguments_json,
    }


def _custom_tool_call(item: responses_pb2.ResponseItem, _path: str) -> dict[str, Any]:
    call = item.custom_tool_call
    return {
        "type": "custom_tool_call",
        "call_id": call.call_id,
        "name": call.name,
        "namespace": call.namespace or None,
        "input": call.input,
    }


def _call_output(item: responses_pb2.ResponseItem, _path: str) -> dict[str, Any]:
    made = item.call_output
    kind = "custom_tool_call_output" if made.is_custom else "function_call_output"
    return {"type": kind, "call_id": made.call_id, "output": made.output}


_ITEMS: dict[str, Callable[[responses_pb2.ResponseItem, str], dict[str, Any]]] = {
    "message": _message,
    "reasoning": _reasoning,
    "function_call": _function_call,
    "custom_tool_call": _custom_tool_call,
    "call_output": _call_output,
}
