"""Responses, their items and their events as gRPC messages."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from gptoss_ray.protos.gptoss.v1 import chat_pb2, common_pb2, responses_pb2
from gptoss_ray.serving.grpc_requests import ROLES
from gptoss_ray.serving.openai_answers import ContentLogprob, TopLogprob
from gptoss_ray.serving.responses.events import ResponseEvent
from gptoss_ray.serving.responses.objects import ResponseObject, ResponseUsage

_ROLE_OF = {name: role for role, name in ROLES.items()}
_ITEM_STATUSES = {
    "in_progress": responses_pb2.ITEM_STATUS_IN_PROGRESS,
    "completed": responses_pb2.ITEM_STATUS_COMPLETED,
    "incomplete": responses_pb2.ITEM_STATUS_INCOMPLETE,
}
_STATUSES = {
    "queued": responses_pb2.RESPONSE_STATUS_QUEUED,
    "in_progress": responses_pb2.RESPONSE_STATUS_IN_PROGRESS,
    "completed": responses_pb2.RESPONSE_STATUS_COMPLETED,
    "incomplete": responses_pb2.RESPONSE_STATUS_INCOMPLETE,
    "failed": responses_pb2.RESPONSE_STATUS_FAILED,
    "cancelled": responses_pb2.RESPONSE_STATUS_CANCELLED,
}
_PHASES = {
    "commentary": responses_pb2.MESSAGE_PHASE_COMMENTARY,
    "final_answer": responses_pb2.MESSAGE_PHASE_FINAL_ANSWER,
}


def response_message(response: ResponseObject) -> responses_pb2.Response:
    """Return a response."""
    message = responses_pb2.Response(
        id=response["id"],
        model=response["model"],
        created=response["created_at"],
        completed=response["completed_at"] or 0,
        status=_STATUSES[response["status"]],
        output=[item_message(item) for item in response["output"]],
        background=response["background"],
        store=response["store"],
        previous_response_id=response["previous_response_id"] or "",
        instructions=response["instructions"] or "",
        metadata=response["metadata"],
    )
    if (error := response["error"]) is not None:
        message.error.CopyFrom(responses_pb2.ResponseError(code=error["code"], message=error["message"]))
    if (usage := response["usage"]) is not None:
        message.usage.CopyFrom(_usage(usage))
    return message


def item_message(item: Mapping[str, Any]) -> responses_pb2.ResponseItem:
    """Return an item of an output, or of an input as it is listed."""
    status = _ITEM_STATUSES.get(item.get("status") or "", responses_pb2.ITEM_STATUS_UNSPECIFIED)
    message = responses_pb2.ResponseItem(id=item["id"], status=status)
    _SET_ITEM[item["type"]](message, item)
    return message


def event_message(event: ResponseEvent) -> responses_pb2.ResponseEvent:
    """Return an event."""
    fields: Mapping[str, Any] = event  # the table knows which fields each type has
    name, make = _EVENTS[event["type"].removeprefix("response.")]
    message = responses_pb2.ResponseEvent(sequence_number=event["sequence_number"])
    getattr(message, name).CopyFrom(make(fields))
    return message


def _usage(usage: ResponseUsage) -> common_pb2.Usage:
    return common_pb2.Usage(
        prompt_tokens=usage["input_tokens"],
        completion_tokens=usage["output_tokens"],
        total_tokens=usage["total_tokens"],
        cached_tokens=usage["input_tokens_details"]["cached_tokens"],
        reasoning_tokens=usage["output_tokens_details"]["reasoning_tokens"],
    )


def _set_message(message: responses_pb2.ResponseItem, item: Mapping[str, Any]) -> None:
    said = message.message
    said.role = _ROLE_OF.get(item["role"], chat_pb2.ROLE_UNSPECIFIED)
    said.text = "".join(part["text"] for part in item["content"])
    said.phase = _PHASES.get(item.get("phase") or "", responses_pb2.MESSAGE_PHASE_UNSPECIFIED)
    said.logprobs.extend(entry for part in item["content"] for entry in _logprobs(part.get("logprobs") or ()))


def _set_reasoning(message: responses_pb2.ResponseItem, item: Mapping[str, Any]) -> None:
    message.reasoning.SetInParent()
    message.reasoning.texts.extend(part["text"] for part in item.get("content") or item.get("summary") or ())


def _set_function_call(message: responses_pb2.ResponseItem, item: Mapping[str, Any]) -> None:
    message.function_call.CopyFrom(
        responses_pb2.FunctionCallItem(
            call_id=item["call_id"],
            name=item["name"],
            namespace=item.get("namespace") or "",
            arguments_json=item["arguments"],
        )
    )


def _set_custom_tool_call(message: responses_pb2.ResponseItem, item: Mapping[str, Any]) -> None:
    message.custom_tool_call.CopyFrom(
        responses_pb2.CustomToolCallItem(
            call_id=item["call_id"],
            name=item["name"],
            namespace=item.get("namespace") or "",
            input=item["input"],
        )
    )


def _set_call_output(message: responses_pb2.ResponseItem, item: Mapping[str, Any]) -> None:
    message.call_output.CopyFrom(
        responses_pb2.CallOutputItem(
            call_id=item["call_id"],
            output=item.get("output") or "",
            is_custom=item["type"] == "custom_tool_call_output",
        )
    )


_SET_ITEM: dict[str, Callable[[responses_pb2.ResponseItem, Mapping[str, Any]], None]] = {
    "message": _set_message,
    "reasoning": _set_reasoning,
    "function_call": _set_function_call,
    "custom_tool_call": _set_custom_tool_call,
    "function_call_output": _set_call_output,
    "custom_tool_call_output": _set_call_output,
}


def _response(event: Mapping[str, Any]) -> responses_pb2.Response:
    return response_message(event["response"])


def _item_event(event: Mapping[str, Any]) -> responses_pb2.ItemEvent:
    return responses_pb2.ItemEvent(output_index=event["output_index"], item=item_message(event["item"]))


def _part_event(event: Mapping[str, Any]) -> responses_pb2.PartEvent:
    return responses_pb2.PartEvent(
        item_id=event["item_id"],
        output_index=event["output_index"],
        content_index=event["content_index"],
        text=event["part"]["text"],
    )


def _text_event(text_field: str) -> Callable[[Mapping[str, Any]], responses_pb2.TextEvent]:
    def make(event: Mapping[str, Any]) -> responses_pb2.TextEvent:
        return responses_pb2.TextEvent(
            item_id=event["item_id"],
            output_index=event["output_index"],
            content_index=event.get("content_index", 0),
            text=event[text_field],
            logprobs=_logprobs(event.get("logprobs") or ()),
        )

    return make


_EVENTS: dict[str, tuple[str, Callable[[Mapping[str, Any]], Any]]] = {
    **{
        name: (name, _response)
        for name in ("created", "queued", "in_progress", "completed", "incomplete", "failed")
    },
    "output_item.added": ("item_added", _item_event),
    "output_item.done": ("item_done", _item_event),
    "content_part.added": ("part_added", _part_event),
    "content_part.done": ("part_done", _part_event),
    "reasoning_text.delta": ("reasoning_delta", _text_event("delta")),
    "reasoning_text.done": ("reasoning_done", _text_event("text")),
    "output_text.delta": ("text_delta", _text_event("delta")),
    "output_text.done": ("text_done", _text_event("text")),
    "function_call_arguments.delta": ("arguments_delta", _text_event("delta")),
    "function_call_arguments.done": ("arguments_done", _text_event("arguments")),
    "custom_tool_call_input.delta": ("custom_input_delta", _text_event("delta")),
    "custom_tool_call_input.done": ("custom_input_done", _text_event("input")),
}


def _logprobs(entries: Any) -> list[responses_pb2.TextLogprobs]:
    given: list[ContentLogprob] = list(entries)
    return [
        responses_pb2.TextLogprobs(chosen=_logprob(entry), top=map(_logprob, entry["top_logprobs"]))
        for entry in given
    ]


def _logprob(token: TopLogprob) -> responses_pb2.TextLogprob:
    return responses_pb2.TextLogprob(token=bytes(token["bytes"]), logprob=token["logprob"] or 0.0)
