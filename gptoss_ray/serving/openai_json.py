"""Answers in OpenAI's JSON shapes: chunks of a stream and whole objects, for chat and completions.

Keys without a value are left out of deltas rather than sent as null: `"type": null` in a tool call
breaks the openai SDK's own accumulator.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, Sequence
from typing import Any

from gptoss_ray.harmony.prompt import ToolCall
from gptoss_ray.serving.answer import Answer, LogprobEntry, TokenLogprob, Usage
from gptoss_ray.serving.chat import ChatChoice, ChatDelta, ToolCallDelta, fold_chat
from gptoss_ray.serving.completion_assembler import CompletionDelta
from gptoss_ray.serving.completions import CompletionChoice, fold_completion


class ChatChunks:
    """Encodes the events of one answer as `chat.completion.chunk`s.

    A choice's role comes with its first delta: clients take the first chunk for the first token.
    """

    def __init__(self, answer: Answer[ChatDelta]) -> None:
        self._head = _head(answer, "chat.completion.chunk")
        self._started: set[int] = set()

    def __call__(self, event: ChatDelta | Usage) -> dict[str, Any]:
        """Return the event's chunk."""
        if isinstance(event, Usage):
            return {**self._head, "choices": [], "usage": usage_object(event)}
        is_first = event.index not in self._started
        self._started.add(event.index)
        choice = {
            "index": event.index,
            "delta": _delta(event, is_first=is_first),
            "logprobs": _chat_logprobs(event.logprobs),
            "finish_reason": event.finish_reason,
        }
        return {**self._head, "choices": [choice]}


async def chat_completion(
    answer: Answer[ChatDelta], events: AsyncIterable[ChatDelta | Usage]
) -> dict[str, Any]:
    """Return a `chat.completion`: the events put together."""
    choices, usage = await fold_chat(events)
    return {
        **_head(answer, "chat.completion"),
        "choices": [
            {
                "index": choice.index,
                "message": _message(choice),
                "logprobs": _chat_logprobs(choice.logprobs),
                "finish_reason": choice.finish_reason,
            }
            for choice in choices
        ],
        "usage": usage_object(usage),
    }


def completion_chunk(answer: Answer[CompletionDelta], event: CompletionDelta | Usage) -> dict[str, Any]:
    """Return a chunk of a `text_completion`."""
    head = _head(answer, "text_completion")
    if isinstance(event, Usage):
        return {**head, "choices": [], "usage": usage_object(event)}
    return {**head, "choices": [_completion_choice(event)]}


async def text_completion(
    answer: Answer[CompletionDelta], events: AsyncIterable[CompletionDelta | Usage]
) -> dict[str, Any]:
    """Return a `text_completion`: the events put together."""
    choices, usage = await fold_completion(events)
    return {
        **_head(answer, "text_completion"),
        "choices": [_completion_choice(choice) for choice in choices],
        "usage": usage_object(usage),
    }


def _delta(event: ChatDelta, *, is_first: bool) -> dict[str, Any]:
    delta: dict[str, Any] = {"role": "assistant", "content": ""} if is_first else {}
    if event.reasoning:
        delta |= {"reasoning": event.reasoning, "reasoning_content": event.reasoning}
    if event.content:
        delta["content"] = event.content
    if event.tool_call is not None:
        delta["tool_calls"] = [_tool_call_delta(event.tool_call)]
    return delta


def _head(answer: Answer[Any], kind: str) -> dict[str, Any]:
    return {
        "id": answer.id,
        "object": kind,
        "created": answer.created,
        "model": answer.model,
        "system_fingerprint": None,
    }


def usage_object(usage: Usage) -> dict[str, Any]:
    """Return OpenAI's count of tokens."""
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.total_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
    }


def _message(choice: ChatChoice) -> dict[str, Any]:
    """Return a message; content is null where a call or the length limit came before any."""
    has_none = not choice.content and choice.finish_reason != "stop"
    message: dict[str, Any] = {
        "role": "assistant",
        "content": None if has_none else choice.content,
        "refusal": None,
        "reasoning": choice.reasoning or None,
        "reasoning_content": choice.reasoning or None,
    }
    if choice.tool_calls:
        message["tool_calls"] = [_tool_call(call) for call in choice.tool_calls]
    return message


def _tool_call(call: ToolCall) -> dict[str, Any]:
    return {
        "id": call.id,
        "type": "function",
        "function": {"name": call.name, "arguments": call.arguments},
    }


def _tool_call_delta(piece: ToolCallDelta) -> dict[str, Any]:
    if not piece.id:
        return {"index": piece.index, "function": {"arguments": piece.arguments}}
    return {"index": piece.index, **_tool_call(ToolCall(piece.id, piece.name, piece.arguments))}


def _chat_logprobs(entries: Sequence[LogprobEntry]) -> dict[str, Any] | None:
    """Return the log probabilities of content tokens; null where there are none to tell."""
    if not entries:
        return None
    content = [
        {**_token(entry.chosen), "top_logprobs": [_token(token) for token in entry.top]} for entry in entries
    ]
    return {"content": content, "refusal": None}


def _token(token: TokenLogprob) -> dict[str, Any]:
    return {"token": _text(token), "logprob": token.logprob, "bytes": list(token.token)}


def _text(token: TokenLogprob) -> str:
    """Return a token's text; OpenAI writes the bytes of a token that cuts a character as `bytes:\\x..`."""
    try:
        return token.token.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in token.token)


def _completion_choice(choice: CompletionDelta | CompletionChoice) -> dict[str, Any]:
    return {
        "index": choice.index,
        "text": choice.text,
        "logprobs": _completion_logprobs(choice.logprobs),
        "finish_reason": choice.finish_reason,
    }


def _completion_logprobs(entries: Sequence[LogprobEntry]) -> dict[str, Any] | None:
    """Return log probabilities as four parallel lists, OpenAI's older form.

    A token's own is among the top ones even where it is none of them; a prompt's first token has null.
    """
    if not entries:
        return None
    return {
        "tokens": [_text(entry.chosen) for entry in entries],
        "token_logprobs": [entry.chosen.logprob for entry in entries],
        "top_logprobs": [
            None
            if entry.chosen.logprob is None
            else {_text(token): token.logprob for token in (*entry.top, entry.chosen)}
            for entry in entries
        ],
        "text_offset": [entry.text_offset for entry in entries],
    }
