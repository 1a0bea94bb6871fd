"""Answers in OpenAI's JSON shapes: chunks of a stream and whole objects, for chat and completions.

Keys without a value are left out of deltas rather than sent as null: `"type": null` in a tool call
breaks the openai SDK's own accumulator.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, Callable, Iterable, Sequence
from typing import Generic, TypeVar

from pydantic_core import to_json

from gptoss_ray.serving.answer import Answer, LogprobEntry, TokenLogprob, Usage
from gptoss_ray.serving.chat import ChatChoice, fold_chat
from gptoss_ray.serving.chat_assembler import ChatDelta, ToolCallDelta
from gptoss_ray.serving.completion_assembler import CompletionDelta
from gptoss_ray.serving.completions import CompletionChoice, fold_completion
from gptoss_ray.serving.openai_answers import (
    AssistantMessage,
    ChatChoiceObject,
    ChatCompletion,
    ChatCompletionChunk,
    ChatLogprobs,
    ChunkChoice,
    CompletionLogprobs,
    ContentLogprob,
    MessageDelta,
    ResumptionObject,
    TextChoice,
    TextCompletion,
    ToolCallObject,
    ToolCallPiece,
    TopLogprob,
    UsageObject,
)
from gptoss_ray.serving.resumption_types import Resumption

DeltaT = TypeVar("DeltaT")


class ChunkWriter(Generic[DeltaT]):
    """Writes the events of one answer as JSON; what all its chunks have in common is encoded once.

    Args:
        empty: A chunk without choices, which come last in it.
        choice: Returns the choice that a delta is in a chunk.
    """

    def __init__(
        self,
        empty: ChatCompletionChunk | TextCompletion,
        choice: Callable[[DeltaT], ChunkChoice | TextChoice],
    ) -> None:
        self._head = to_json(empty).removesuffix(b"[]}")
        self._choice = choice

    def __call__(self, deltas: Iterable[DeltaT], more: bytes = b"") -> bytes:
        """Return a chunk of these deltas, with the fields that are given, such as `usage_field`."""
        choices = to_json([self._choice(delta) for delta in deltas])
        return b"%b%b%b}" % (self._head, choices, more)


def usage_field(usage: Usage | None) -> bytes:
    """Return what tells the usage at the end of a chunk: so far, in all, or null."""
    return b',"usage":' + to_json(usage and usage_object(usage))


def resumption_field(resumption: Resumption | None) -> bytes:
    """Return what tells at the end of a stream's first chunk how to resume it; nothing where it cannot be."""
    if resumption is None:
        return b""
    fixed = ResumptionObject(
        id=resumption.id,
        created=resumption.created,
        seed=resumption.seed,
        recalled_reasoning=resumption.recalled_reasoning,
    )
    return b',"resumption":' + to_json(fixed)


def chat_chunks(answer: Answer[ChatDelta]) -> ChunkWriter[ChatDelta]:
    """Return what writes an answer as `chat.completion.chunk`s."""
    empty = ChatCompletionChunk(
        id=answer.id,
        object="chat.completion.chunk",
        created=answer.created,
        model=answer.model,
        system_fingerprint=None,
        choices=[],
    )
    return ChunkWriter(empty, _ChunkChoices())


class _ChunkChoices:
    """Returns what deltas are in chunks.

    A choice's role comes with its first delta: clients take the first chunk for the first token. Tokens come
    with those of an answer that can be resumed.
    """

    def __init__(self) -> None:
        self._started: set[int] = set()

    def __call__(self, delta: ChatDelta) -> ChunkChoice:
        is_first = delta.index not in self._started
        self._started.add(delta.index)
        choice = ChunkChoice(
            index=delta.index,
            delta=_delta(delta, is_first=is_first),
            logprobs=_chat_logprobs(delta.logprobs),
            finish_reason=delta.finish_reason,
        )
        if delta.token_ids:
            choice["token_ids"] = list(delta.token_ids)
        return choice


async def chat_completion(
    answer: Answer[ChatDelta], events: AsyncIterable[ChatDelta | Usage]
) -> ChatCompletion:
    """Return a `chat.completion`: the events put together."""
    choices, usage = await fold_chat(events)
    return ChatCompletion(
        id=answer.id,
        object="chat.completion",
        created=answer.created,
        model=answer.model,
        system_fingerprint=None,
        choices=[
            ChatChoiceObject(
                index=choice.index,
                message=_message(choice),
                logprobs=_chat_logprobs(choice.logprobs),
                finish_reason=choice.finish_reason,
            )
            for choice in choices
        ],
        usage=usage_object(usage),
    )


def completion_chunks(answer: Answer[CompletionDelta]) -> ChunkWriter[CompletionDelta]:
    """Return what writes an answer as chunks of a `text_completion`."""
    is_resumable = answer.resumption is not None
    return ChunkWriter(_text_completion(answer), _resumable_choice if is_resumable else _text_choice)


def _resumable_choice(choice: CompletionDelta) -> TextChoice:
    return {**_text_choice(choice), "token_ids": list(choice.token_ids)}


async def text_completion(
    answer: Answer[CompletionDelta], events: AsyncIterable[CompletionDelta | Usage]
) -> TextCompletion:
    """Return a `text_completion`: the events put together."""
    choices, usage = await fold_completion(events)
    completion = _text_completion(answer)
    completion["choices"] = [_text_choice(choice) for choice in choices]
    completion["usage"] = usage_object(usage)
    return completion


def _text_completion(answer: Answer[CompletionDelta]) -> TextCompletion:
    """Return one without choices."""
    return TextCompletion(
        id=answer.id,
        object="text_completion",
        created=answer.created,
        model=answer.model,
        system_fingerprint=None,
        choices=[],
    )


def _text_choice(choice: CompletionDelta | CompletionChoice) -> TextChoice:
    return {
        "index": choice.index,
        "text": choice.text,
        "logprobs": _completion_logprobs(choice.logprobs),
        "finish_reason": choice.finish_reason,
    }


def _delta(event: ChatDelta, *, is_first: bool) -> MessageDelta:
    delta = MessageDelta(role="assistant", content="") if is_first else MessageDelta()
    if event.reasoning:
        delta["reasoning"] = delta["reasoning_content"] = event.reasoning
    if event.content:
        delta["content"] = event.content
    if event.tool_call is not None:
        delta["tool_calls"] = [_tool_call_piece(event.tool_call)]
    return delta


def usage_object(usage: Usage) -> UsageObject:
    """Return OpenAI's count of tokens."""
    return UsageObject(
        prompt_tokens=usage.prompt_tokens,
        completion_tokens=usage.completion_tokens,
        total_tokens=usage.total_tokens,
        prompt_tokens_details={"cached_tokens": usage.cached_tokens},
        completion_tokens_details={"reasoning_tokens": usage.reasoning_tokens},
    )


def _message(choice: ChatChoice) -> AssistantMessage:
    """Return a message; content is null where a call or the length limit came before any."""
    has_none = not choice.content and choice.finish_reason != "stop"
    message = AssistantMessage(
        role="assistant",
        content=None if has_none else choice.content,
        refusal=None,
        reasoning=choice.reasoning or None,
        reasoning_content=choice.reasoning or None,
    )
    if choice.tool_calls:
        message["tool_calls"] = [
            ToolCallObject(
                id=call.id, type="function", function={"name": call.name, "arguments": call.arguments}
            )
            for call in choice.tool_calls
        ]
    return message


def _tool_call_piece(piece: ToolCallDelta) -> ToolCallPiece:
    if not piece.id:
        return ToolCallPiece(index=piece.index, function={"arguments": piece.arguments})
    return ToolCallPiece(
        index=piece.index,
        id=piece.id,
        type="function",
        function={"name": piece.name, "arguments": piece.arguments},
    )


def _chat_logprobs(entries: Sequence[LogprobEntry]) -> ChatLogprobs | None:
    """Return the log probabilities of content tokens; null where there are none to tell."""
    if not entries:
        return None
    return ChatLogprobs(content=content_logprobs(entries), refusal=None)


def content_logprobs(entries: Sequence[LogprobEntry]) -> list[ContentLogprob]:
    """Return the log probabilities of tokens, an object each."""
    return [
        ContentLogprob(**_token(entry.chosen), top_logprobs=[_token(token) for token in entry.top])
        for entry in entries
    ]


def _token(token: TokenLogprob) -> TopLogprob:
    return TopLogprob(token=_text(token), logprob=token.logprob, bytes=list(token.token))


def _text(token: TokenLogprob) -> str:
    """Return a token's text; OpenAI writes the bytes of a token that cuts a character as `bytes:\\x..`."""
    try:
        return token.token.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in token.token)


def _completion_logprobs(entries: Sequence[LogprobEntry]) -> CompletionLogprobs | None:
    """Return log probabilities as four parallel lists, OpenAI's older form.

    A token's own is among the top ones even where it is none of them; a prompt's first token has null.
    """
    if not entries:
        return None
    return CompletionLogprobs(
        tokens=[_text(entry.chosen) for entry in entries],
        token_logprobs=[entry.chosen.logprob for entry in entries],
        top_logprobs=[_top_logprobs(entry) for entry in entries],
        text_offset=[entry.text_offset for entry in entries],
    )


def _top_logprobs(entry: LogprobEntry) -> dict[str, float] | None:
    if entry.chosen.logprob is None:
        return None
    tokens = (*entry.top, entry.chosen)
    return {_text(token): token.logprob for token in tokens if token.logprob is not None}
