"""gRPC messages to the fields that HTTP requests have, and answers to gRPC messages."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pydantic_core import from_json

from gptoss_ray.errors import InvalidRequestError
from gptoss_ray.protos.gptoss.v1 import chat_pb2, common_pb2, generation_pb2
from gptoss_ray.serving.answer import Answer, LogprobEntry, TokenLogprob, Usage
from gptoss_ray.serving.chat import ChatChoice, ChatDelta
from gptoss_ray.serving.completion_assembler import CompletionDelta
from gptoss_ray.serving.completions import CompletionChoice
from gptoss_ray.serving.limits import check_json_size
from gptoss_ray.serving.openai_types import (
    ChatCompletionRequest,
    CompletionRequest,
    parse_fields,
)
from gptoss_ray.serving.request_fields import MAX_ITEMS, MAX_PROMPT_IDS

_ROLES = {
    chat_pb2.ROLE_SYSTEM: "system",
    chat_pb2.ROLE_DEVELOPER: "developer",
    chat_pb2.ROLE_USER: "user",
    chat_pb2.ROLE_ASSISTANT: "assistant",
    chat_pb2.ROLE_TOOL: "tool",
}
_EFFORTS = {
    chat_pb2.REASONING_EFFORT_UNSPECIFIED: None,
    chat_pb2.REASONING_EFFORT_LOW: "low",
    chat_pb2.REASONING_EFFORT_MEDIUM: "medium",
    chat_pb2.REASONING_EFFORT_HIGH: "high",
}
_TOOL_CHOICES = {
    chat_pb2.TOOL_CHOICE_UNSPECIFIED: None,
    chat_pb2.TOOL_CHOICE_AUTO: "auto",
    chat_pb2.TOOL_CHOICE_NONE: "none",
    chat_pb2.TOOL_CHOICE_REQUIRED: "required",
}
_FINISH_REASONS = {
    None: common_pb2.FINISH_REASON_UNSPECIFIED,
    "stop": common_pb2.FINISH_REASON_STOP,
    "length": common_pb2.FINISH_REASON_LENGTH,
    "tool_calls": common_pb2.FINISH_REASON_TOOL_CALLS,
}


def chat_request(message: chat_pb2.ChatRequest) -> ChatCompletionRequest:
    """Return the same request as HTTP would bring it; raise InvalidRequestError naming a wrong field."""
    _check_length("messages", len(message.messages))
    _check_length("tools", len(message.tools))
    _check_length("tool_calls", sum(len(each.tool_calls) for each in message.messages))
    _check_length("allowed_tools", len(message.allowed_tools))
    fields = {
        **_sampling_fields(message.sampling),
        **_form_fields(message.response_format),
        "model": message.model,
        "messages": [_message(item, f"messages[{index}]") for index, item in enumerate(message.messages)],
        "tools": [_tool(tool, f"tools[{index}]") for index, tool in enumerate(message.tools)],
        "tool_choice": _tool_choice(message),
        "reasoning_effort": _known(_EFFORTS, message.reasoning_effort, "reasoning_effort"),
    }
    fields["logprobs"] = "top_logprobs" in fields
    return parse_fields(ChatCompletionRequest, fields)


def completion_request(
    message: generation_pb2.GenerateRequest, *, streams: bool = False
) -> CompletionRequest:
    """Return the same request as HTTP would bring it; raise InvalidRequestError naming a wrong field."""
    prompt = message.WhichOneof("prompt")
    if prompt is None:
        raise InvalidRequestError("prompt is missing; send text or token_ids.", param="prompt")
    _check_length("token_ids", len(message.token_ids.ids), MAX_PROMPT_IDS)
    fields = _sampling_fields(message.sampling) | _form_fields(message.response_format)
    fields["logprobs"] = fields.pop("top_logprobs", None)
    fields["prompt"] = [message.text if prompt == "text" else list(message.token_ids.ids)]
    fields |= {"model": message.model, "stream": streams, "echo": message.echo}
    if message.HasField("best_of"):
        fields["best_of"] = message.best_of
    return parse_fields(CompletionRequest, fields)


def _sampling_fields(sampling: common_pb2.SamplingParams) -> dict[str, Any]:
    """Return the fields that are present, by their names, which are those of HTTP."""
    _check_length("stop", len(sampling.stop))
    _check_length("stop_token_ids", len(sampling.stop_token_ids))
    _check_length("logit_bias", len(sampling.logit_bias))
    fields: dict[str, Any] = {field.name: value for field, value in sampling.ListFields()}
    return fields | {
        "stop": list(sampling.stop),
        "stop_token_ids": list(sampling.stop_token_ids),
        "logit_bias": {str(token_id): bias for token_id, bias in sampling.logit_bias.items()},
    }


def _form_fields(wanted: common_pb2.ResponseFormat) -> dict[str, Any]:
    """Return the form of the answer in the fields of HTTP."""
    form = wanted.WhichOneof("form")
    if form is None or (form == "json_object" and not wanted.json_object):
        return {}
    if form == "json_object":
        return {"response_format": {"type": "json_object"}}
    if form == "json_schema":
        schema = wanted.json_schema
        json_schema = {
            "name": schema.name,
            "description": schema.description,
            "schema": _json(schema.schema_json, "response_format.json_schema.schema_json"),
            "strict": schema.strict,
        }
        return {"response_format": {"type": "json_schema", "json_schema": json_schema}}
    _check_length("response_format.choices", len(wanted.choices.texts))
    extras: dict[str, Any] = {
        "regex": {"regex": wanted.regex},
        "choices": {"choice": list(wanted.choices.texts)},
        "lark": {"grammar": wanted.lark},
    }
    return {"structured_outputs": extras[form]}


def _tool_choice(message: chat_pb2.ChatRequest) -> Any:
    mode = _known(_TOOL_CHOICES, message.tool_choice, "tool_choice")
    if not message.allowed_tools:
        return mode
    tools = [{"type": "function", "function": {"name": name}} for name in message.allowed_tools]
    return {"type": "allowed_tools", "allowed_tools": {"mode": mode or "auto", "tools": tools}}


def _message(message: chat_pb2.Message, path: str) -> dict[str, Any]:
    calls = [
        {"id": call.id, "function": {"name": call.name, "arguments": call.arguments_json}}
        for call in message.tool_calls
    ]
    return {
        "role": _known(_ROLES, message.role, f"{path}.role"),
        # Content beside a call is a preamble, and a call without one has none.
        "content": None if calls and not message.content else message.content,
        "reasoning": message.reasoning or None,
        "tool_calls": calls,
        "tool_call_id": message.tool_call_id or None,
    }


def _tool(tool: chat_pb2.Tool, path: str) -> dict[str, Any]:
    function = {
        "name": tool.name,
        "description": tool.description,
        "parameters": _json(tool.parameters_json, f"{path}.parameters_json"),
        "strict": tool.strict,
    }
    return {"type": "function", "function": function}


def _check_length(param: str, length: int, limit: int = MAX_ITEMS) -> None:
    """Raise InvalidRequestError where a list is far too long, before its items are looked at."""
    if length > limit:
        raise InvalidRequestError(f"{param} has {length} items; send at most {limit}.", param=param)


def _json(text: str, param: str) -> Any:
    """Return the value of a JSON text, None of an empty one; raise InvalidRequestError naming the field."""
    check_json_size(text.encode(), param)
    try:
        return from_json(text, cache_strings="none") if text else None
    except ValueError as error:
        raise InvalidRequestError(f"{param} is not valid JSON: {error}.", param=param) from None


def _known(names: dict[Any, Any], value: int, path: str) -> Any:
    """Return an enum value's name; raise InvalidRequestError where it has none."""
    if value not in names:
        raise InvalidRequestError(f"{path} is {value}, which is unspecified or unknown.", param=path)
    return names[value]


def chat_response(
    answer: Answer[ChatDelta], choices: list[ChatChoice], usage: Usage
) -> chat_pb2.ChatResponse:
    """Return a whole answer."""
    return chat_pb2.ChatResponse(
        id=answer.id,
        model=answer.model,
        created=answer.created,
        choices=map(_chat_choice, choices),
        usage=_usage(usage),
    )


def _chat_choice(choice: ChatChoice) -> chat_pb2.ChatChoice:
    calls = (
        chat_pb2.ToolCall(id=call.id, name=call.name, arguments_json=call.arguments)
        for call in choice.tool_calls
    )
    return chat_pb2.ChatChoice(
        index=choice.index,
        reasoning=choice.reasoning,
        content=choice.content,
        tool_calls=calls,
        finish_reason=_FINISH_REASONS[choice.finish_reason],
        logprobs=_logprobs(choice.logprobs),
    )


def stream_chat_response(answer: Answer[ChatDelta], event: ChatDelta | Usage) -> chat_pb2.StreamChatResponse:
    """Return a piece of an answer."""
    response = chat_pb2.StreamChatResponse(id=answer.id, model=answer.model, created=answer.created)
    if isinstance(event, Usage):
        response.usage.CopyFrom(_usage(event))
        return response
    # Set where it lies: to make it apart and copy it takes three times as long, for every token.
    choice = response.choice
    choice.index = event.index
    choice.reasoning = event.reasoning
    choice.content = event.content
    choice.finish_reason = _FINISH_REASONS[event.finish_reason]
    if event.logprobs:
        choice.logprobs.extend(_logprobs(event.logprobs))
    if (piece := event.tool_call) is not None:
        choice.tool_call.index = piece.index
        choice.tool_call.id = piece.id
        choice.tool_call.name = piece.name
        choice.tool_call.arguments_json = piece.arguments
    return response


def generate_response(
    answer: Answer[CompletionDelta], choices: list[CompletionChoice], usage: Usage
) -> generation_pb2.GenerateResponse:
    """Return a whole answer."""
    return generation_pb2.GenerateResponse(
        id=answer.id,
        model=answer.model,
        created=answer.created,
        choices=map(_generation_choice, choices),
        usage=_usage(usage),
    )


def stream_generate_response(
    answer: Answer[CompletionDelta], event: CompletionDelta | Usage
) -> generation_pb2.StreamGenerateResponse:
    """Return a piece of an answer."""
    response = generation_pb2.StreamGenerateResponse(id=answer.id, model=answer.model, created=answer.created)
    if isinstance(event, Usage):
        response.usage.CopyFrom(_usage(event))
    else:
        response.choice.CopyFrom(_generation_choice(event))
    return response


def _generation_choice(choice: CompletionChoice | CompletionDelta) -> generation_pb2.GenerationChoice:
    return generation_pb2.GenerationChoice(
        index=choice.index,
        text=choice.text,
        token_ids=choice.token_ids,
        logprobs=_logprobs(choice.logprobs),
        finish_reason=_FINISH_REASONS[choice.finish_reason],
    )


def _usage(usage: Usage) -> common_pb2.Usage:
    return common_pb2.Usage(
        prompt_tokens=usage.prompt_tokens,
        completion_tokens=usage.completion_tokens,
        total_tokens=usage.total_tokens,
        cached_tokens=usage.cached_tokens,
        reasoning_tokens=usage.reasoning_tokens,
    )


def _logprobs(entries: Iterable[LogprobEntry]) -> list[common_pb2.TokenLogprobs]:
    return [
        common_pb2.TokenLogprobs(chosen=_logprob(entry.chosen), top=map(_logprob, entry.top))
        for entry in entries
    ]


def _logprob(token: TokenLogprob) -> common_pb2.TokenLogprob:
    return common_pb2.TokenLogprob(token_id=token.token_id, token=token.token, logprob=token.logprob)
