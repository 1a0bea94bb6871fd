"""Requests, made of what is usual in Python."""

from __future__ import annotations

from collections.abc import Sequence

from gptoss_ray.protos.gptoss.v1 import chat_pb2, common_pb2, generation_pb2, responses_pb2, tokenize_pb2

Prompt = str | Sequence[int]
"""Text, or token ids."""


def chat_request(
    model: str,
    messages: str | Sequence[chat_pb2.Message],
    *,
    tools: Sequence[chat_pb2.Tool] = (),
    tool_choice: chat_pb2.ToolChoice = chat_pb2.TOOL_CHOICE_UNSPECIFIED,
    allowed_tools: Sequence[str] = (),
    reasoning_effort: chat_pb2.ReasoningEffort = chat_pb2.REASONING_EFFORT_UNSPECIFIED,
    response_format: common_pb2.ResponseFormat | None = None,
    sampling: common_pb2.SamplingParams | None = None,
) -> chat_pb2.ChatRequest:
    """Return a request to answer a conversation; a string is a conversation of one user message."""
    return chat_pb2.ChatRequest(
        model=model,
        messages=_messages(messages),
        tools=tools,
        tool_choice=tool_choice,
        allowed_tools=allowed_tools,
        reasoning_effort=reasoning_effort,
        response_format=response_format,
        sampling=sampling,
    )


def generate_request(
    model: str,
    prompt: Prompt | Sequence[Prompt],
    *,
    response_format: common_pb2.ResponseFormat | None = None,
    sampling: common_pb2.SamplingParams | None = None,
    echo: bool = False,
    best_of: int | None = None,
) -> generation_pb2.GenerateRequest:
    """Return a request to continue a prompt of text or of token ids, or several such prompts."""
    request = generation_pb2.GenerateRequest(
        model=model, response_format=response_format, sampling=sampling, echo=echo, best_of=best_of
    )
    if isinstance(prompt, str):
        request.text = prompt
    elif ids := [each for each in prompt if isinstance(each, int)]:
        request.token_ids.ids.extend(ids)
    else:
        request.prompts.prompts.extend(_prompt(each) for each in prompt if not isinstance(each, int))
    return request


def new_response(
    model: str,
    input_: str | Sequence[responses_pb2.ResponseItem],
    *,
    instructions: str = "",
    previous_response_id: str = "",
    tools: Sequence[responses_pb2.ResponseTool] = (),
    tool_choice: chat_pb2.ToolChoice = chat_pb2.TOOL_CHOICE_UNSPECIFIED,
    reasoning_effort: chat_pb2.ReasoningEffort = chat_pb2.REASONING_EFFORT_UNSPECIFIED,
    response_format: common_pb2.ResponseFormat | None = None,
    sampling: common_pb2.SamplingParams | None = None,
    store: bool | None = None,
    background: bool = False,
) -> responses_pb2.NewResponse:
    """Return a response to be made of items; a string is one message of the user."""
    if isinstance(input_, str):
        said = responses_pb2.MessageItem(role=chat_pb2.ROLE_USER, text=input_)
        input_ = [responses_pb2.ResponseItem(message=said)]
    return responses_pb2.NewResponse(
        model=model,
        input=input_,
        instructions=instructions,
        previous_response_id=previous_response_id,
        tools=tools,
        tool_choice=tool_choice,
        reasoning_effort=reasoning_effort,
        response_format=response_format,
        sampling=sampling,
        store=store,
        background=background,
    )


def tokenize_request(
    model: str,
    prompt: str | Sequence[chat_pb2.Message],
    *,
    tools: Sequence[chat_pb2.Tool] = (),
    reasoning_effort: chat_pb2.ReasoningEffort = chat_pb2.REASONING_EFFORT_UNSPECIFIED,
    return_tokens: bool = False,
) -> tokenize_pb2.TokenizeRequest:
    """Return a request to tokenize a raw prompt, which is a string, or a conversation."""
    request = tokenize_pb2.TokenizeRequest(model=model, return_tokens=return_tokens)
    if isinstance(prompt, str):
        request.text = prompt
    else:
        chat = tokenize_pb2.TokenizedChat(messages=prompt, tools=tools, reasoning_effort=reasoning_effort)
        request.chat.CopyFrom(chat)
    return request


def _messages(messages: str | Sequence[chat_pb2.Message]) -> Sequence[chat_pb2.Message]:
    if isinstance(messages, str):
        return [chat_pb2.Message(role=chat_pb2.ROLE_USER, content=messages)]
    return messages


def _prompt(prompt: Prompt) -> generation_pb2.Prompt:
    if isinstance(prompt, str):
        return generation_pb2.Prompt(text=prompt)
    return generation_pb2.Prompt(token_ids=common_pb2.TokenIds(ids=prompt))
