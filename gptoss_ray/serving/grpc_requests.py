"""gRPC messages to the fields that HTTP requests have."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar

from google.protobuf.message import Message
from pydantic_core import from_json

from gptoss_ray.errors import InvalidRequestError
from gptoss_ray.protos.gptoss.v1 import chat_pb2, common_pb2, generation_pb2, tokenize_pb2
from gptoss_ray.serving.limits import check_json_size, parse_aside
from gptoss_ray.serving.openai_types import (
    MAX_PROMPTS,
    ChatCompletionRequest,
    CompletionRequest,
    parse_fields,
)
from gptoss_ray.serving.request_fields import MAX_ITEMS, MAX_PROMPT_IDS
from gptoss_ray.serving.tokenization import DetokenizeRequest, TokenizeRequest

ROLES = {
    chat_pb2.ROLE_SYSTEM: "system",
    chat_pb2.ROLE_DEVELOPER: "developer",
    chat_pb2.ROLE_USER: "user",
    chat_pb2.ROLE_ASSISTANT: "assistant",
    chat_pb2.ROLE_TOOL: "tool",
}
EFFORTS = {
    chat_pb2.REASONING_EFFORT_UNSPECIFIED: None,
    chat_pb2.REASONING_EFFORT_LOW: "low",
    chat_pb2.REASONING_EFFORT_MEDIUM: "medium",
    chat_pb2.REASONING_EFFORT_HIGH: "high",
}
TOOL_CHOICES = {
    chat_pb2.TOOL_CHOICE_UNSPECIFIED: None,
    chat_pb2.TOOL_CHOICE_AUTO: "auto",
    chat_pb2.TOOL_CHOICE_NONE: "none",
    chat_pb2.TOOL_CHOICE_REQUIRED: "required",
}


MessageT = TypeVar("MessageT", bound=Message)
ParsedT = TypeVar("ParsedT")


async def parsed(message: MessageT, parse: Callable[[MessageT], ParsedT]) -> ParsedT:
    """Return what `parse` makes of a message; of a large one in a thread."""
    return await parse_aside(message.ByteSize(), partial(parse, message))


def chat_request(message: chat_pb2.ChatRequest) -> ChatCompletionRequest:
    """Return the same request as HTTP would bring it; raise InvalidRequestError naming a wrong field."""
    return parse_fields(ChatCompletionRequest, _chat_fields(message))


def stream_chat_request(message: chat_pb2.StreamChatRequest) -> ChatCompletionRequest:
    """Return the same request as HTTP would bring it; raise InvalidRequestError naming a wrong field."""
    return parse_fields(ChatCompletionRequest, _chat_fields(message.chat) | _stream_fields(message))


def completion_request(message: generation_pb2.GenerateRequest) -> CompletionRequest:
    """Return the same request as HTTP would bring it; raise InvalidRequestError naming a wrong field."""
    return parse_fields(CompletionRequest, _completion_fields(message))


def stream_completion_request(message: generation_pb2.StreamGenerateRequest) -> CompletionRequest:
    """Return the same request as HTTP would bring it; raise InvalidRequestError naming a wrong field."""
    return parse_fields(CompletionRequest, _completion_fields(message.generation) | _stream_fields(message))


def tokenize_request(message: tokenize_pb2.TokenizeRequest) -> TokenizeRequest:
    """Return the same request as HTTP would bring it; raise InvalidRequestError naming a wrong field."""
    wanted = message.WhichOneof("input")
    if wanted is None:
        raise InvalidRequestError("input is missing; send text or chat.", param="input")
    if wanted == "text":
        return parse_fields(TokenizeRequest, {"prompt": message.text})
    chat = message.chat
    fields = _conversation_fields(chat.messages, chat.tools) | {
        "reasoning_effort": known(EFFORTS, chat.reasoning_effort, "reasoning_effort"),
        "add_generation_prompt": not chat.omit_generation_prompt,
    }
    return parse_fields(TokenizeRequest, fields)


def detokenize_request(message: tokenize_pb2.DetokenizeRequest) -> DetokenizeRequest:
    """Return the same request as HTTP would bring it; raise InvalidRequestError naming a wrong field."""
    check_length("token_ids", len(message.token_ids), MAX_PROMPT_IDS)
    return parse_fields(DetokenizeRequest, {"tokens": list(message.token_ids)})


def _chat_fields(message: chat_pb2.ChatRequest) -> dict[str, Any]:
    check_length("allowed_tools", len(message.allowed_tools))
    fields = {
        **sampling_fields(message.sampling),
        **form_fields(message.response_format),
        **_conversation_fields(message.messages, message.tools),
        "model": message.model,
        "tool_choice": _tool_choice(message),
        "reasoning_effort": known(EFFORTS, message.reasoning_effort, "reasoning_effort"),
    }
    fields["logprobs"] = "top_logprobs" in fields
    return fields


def _conversation_fields(
    messages: Sequence[chat_pb2.Message], tools: Sequence[chat_pb2.Tool]
) -> dict[str, Any]:
    check_length("messages", len(messages))
    check_length("tools", len(tools))
    check_length("tool_calls", sum(len(each.tool_calls) for each in messages))
    return {
        "messages": [_message(item, f"messages[{index}]") for index, item in enumerate(messages)],
        "tools": [_tool(tool, f"tools[{index}]") for index, tool in enumerate(tools)],
    }


def _completion_fields(message: generation_pb2.GenerateRequest) -> dict[str, Any]:
    fields = sampling_fields(message.sampling) | form_fields(message.response_format)
    fields["logprobs"] = fields.pop("top_logprobs", None)
    fields |= {"model": message.model, "prompt": _prompts(message), "echo": message.echo}
    if message.HasField("best_of"):
        fields["best_of"] = message.best_of
    return fields


def _prompts(message: generation_pb2.GenerateRequest) -> list[Any]:
    """Return the prompts as texts and lists of ids."""
    form = message.WhichOneof("prompt")
    if form is None:
        raise InvalidRequestError("prompt is missing; send text, token_ids or prompts.", param="prompt")
    if form == "text":
        return [message.text]
    if form == "token_ids":
        return [_ids(message.token_ids)]
    prompts = message.prompts.prompts
    check_length("prompts", len(prompts), MAX_PROMPTS)
    for index, prompt in enumerate(prompts):
        if prompt.WhichOneof("form") is None:
            raise InvalidRequestError(
                f"prompts.prompts[{index}] is empty; send text or token_ids.",
                param=f"prompts.prompts[{index}]",
            )
    return [each.text if each.WhichOneof("form") == "text" else _ids(each.token_ids) for each in prompts]


def _ids(token_ids: common_pb2.TokenIds) -> list[int]:
    check_length("token_ids", len(token_ids.ids), MAX_PROMPT_IDS)
    return list(token_ids.ids)


def _stream_fields(
    message: chat_pb2.StreamChatRequest | generation_pb2.StreamGenerateRequest,
) -> dict[str, Any]:
    fields: dict[str, Any] = {"stream": True, "resumable": message.resumable}
    if message.HasField("resumption"):
        fields["resumption"] = _resumption_fields(message.resumption)
    return fields


def _resumption_fields(resumption: common_pb2.Resumption) -> dict[str, Any]:
    check_length("resumption.choices", len(resumption.choices))
    return {
        "id": resumption.id,
        "created": resumption.created,
        "seed": resumption.seed,
        "recalled_reasoning": dict(resumption.recalled_reasoning),
        "choices": [
            {"index": choice.index, "token_ids": list(choice.token_ids), "has_ended": choice.has_ended}
            for choice in resumption.choices
        ],
    }


def sampling_fields(sampling: common_pb2.SamplingParams) -> dict[str, Any]:
    """Return the fields that are present, by their names, which are those of HTTP."""
    check_length("stop", len(sampling.stop))
    check_length("stop_token_ids", len(sampling.stop_token_ids))
    check_length("logit_bias", len(sampling.logit_bias))
    fields: dict[str, Any] = {field.name: value for field, value in sampling.ListFields()}
    return fields | {
        "stop": list(sampling.stop),
        "stop_token_ids": list(sampling.stop_token_ids),
        "logit_bias": {str(token_id): bias for token_id, bias in sampling.logit_bias.items()},
    }


def form_fields(wanted: common_pb2.ResponseFormat) -> dict[str, Any]:
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
            "schema": json_value(schema.schema_json, "response_format.json_schema.schema_json"),
            "strict": schema.strict,
        }
        return {"response_format": {"type": "json_schema", "json_schema": json_schema}}
    if form == "unshown_schema_json":
        schema = json_value(wanted.unshown_schema_json, f"response_format.{form}")
        return {"structured_outputs": {"json_object": True} if schema is None else {"json": schema}}
    check_length("response_format.choices", len(wanted.choices.texts))
    extras: dict[str, Any] = {
        "regex": {"regex": wanted.regex},
        "choices": {"choice": list(wanted.choices.texts)},
        "lark": {"grammar": wanted.lark},
    }
    return {"structured_outputs": extras[form]}


def _tool_choice(message: chat_pb2.ChatRequest) -> Any:
    mode = known(TOOL_CHOICES, message.tool_choice, "tool_choice")
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
        "role": known(ROLES, message.role, f"{path}.role"),
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
        "parameters": json_value(tool.parameters_json, f"{path}.parameters_json"),
        "strict": tool.strict,
    }
    return {"type": "function", "function": function}


def check_length(param: str, length: int, limit: int = MAX_ITEMS) -> None:
    """Raise InvalidRequestError where a list is far too long, before its items are looked at."""
    if length > limit:
        raise InvalidRequestError(f"{param} has {length} items; send at most {limit}.", param=param)


def json_value(text: str, param: str) -> Any:
    """Return the value of a JSON text, None of an empty one; raise InvalidRequestError naming the field."""
    check_json_size(text.encode(), param)
    try:
        return from_json(text, cache_strings="none") if text else None
    except ValueError as error:
        raise InvalidRequestError(f"{param} is not valid JSON: {error}.", param=param) from None


def known(names: dict[Any, Any], value: int, path: str) -> Any:
    """Return an enum value's name; raise InvalidRequestError where it has none."""
    if value not in names:
        raise InvalidRequestError(f"{path} is {value}, which is unspecified or unknown.", param=path)
    return names[value]
