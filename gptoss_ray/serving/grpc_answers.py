"""Answers as gRPC messages."""

from __future__ import annotations

from collections.abc import Iterable

from gptoss_ray.protos.gptoss.v1 import chat_pb2, common_pb2, generation_pb2
from gptoss_ray.serving.answer import Answer, LogprobEntry, TokenLogprob, Usage
from gptoss_ray.serving.chat import ChatChoice
from gptoss_ray.serving.chat_assembler import ChatDelta
from gptoss_ray.serving.completion_assembler import CompletionDelta
from gptoss_ray.serving.completions import CompletionChoice
from gptoss_ray.serving.resumption_types import Resumption

_FINISH_REASONS = {
    None: common_pb2.FINISH_REASON_UNSPECIFIED,
    "stop": common_pb2.FINISH_REASON_STOP,
    "length": common_pb2.FINISH_REASON_LENGTH,
    "tool_calls": common_pb2.FINISH_REASON_TOOL_CALLS,
}


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


class ChatPieces:
    """Turns the events of an answer into the pieces of its stream.

    Args:
        answer: What is streamed.
        tells_usage: Whether every piece has the usage so far.
    """

    def __init__(self, answer: Answer[ChatDelta], *, tells_usage: bool = False) -> None:
        self._answer = answer
        self._tells_usage = tells_usage
        self._resumption = answer.resumption

    def __call__(self, event: ChatDelta | Usage) -> chat_pb2.StreamChatResponse:
        """Return the next piece."""
        answer = self._answer
        response = chat_pb2.StreamChatResponse(id=answer.id, model=answer.model, created=answer.created)
        if self._resumption is not None:
            response.resumption.CopyFrom(_resumption(self._resumption))
            self._resumption = None
        if isinstance(event, Usage):
            response.usage.CopyFrom(_usage(event))
            return response
        if self._tells_usage:
            response.usage.CopyFrom(_usage(answer.usage))
        _set_chat_delta(response.choice, event)
        return response


def _set_chat_delta(choice: chat_pb2.ChatChoiceDelta, event: ChatDelta) -> None:
    # Set where it lies: to make it apart and copy it takes three times as long, for every token.
    choice.index = event.index
    choice.reasoning = event.reasoning
    choice.content = event.content
    choice.finish_reason = _FINISH_REASONS[event.finish_reason]
    if event.logprobs:
        choice.logprobs.extend(_logprobs(event.logprobs))
    if event.token_ids:
        choice.token_ids.extend(event.token_ids)
    if (piece := event.tool_call) is not None:
        choice.tool_call.index = piece.index
        choice.tool_call.id = piece.id
        choice.tool_call.name = piece.name
        choice.tool_call.arguments_json = piece.arguments


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


class GenerationPieces:
    """Turns the events of an answer into the pieces of its stream; see `ChatPieces`."""

    def __init__(self, answer: Answer[CompletionDelta], *, tells_usage: bool = False) -> None:
        self._answer = answer
        self._tells_usage = tells_usage
        self._resumption = answer.resumption

    def __call__(self, event: CompletionDelta | Usage) -> generation_pb2.StreamGenerateResponse:
        """Return the next piece."""
        answer = self._answer
        response = generation_pb2.StreamGenerateResponse(
            id=answer.id, model=answer.model, created=answer.created
        )
        if self._resumption is not None:
            response.resumption.CopyFrom(_resumption(self._resumption))
            self._resumption = None
        if isinstance(event, Usage):
            response.usage.CopyFrom(_usage(event))
            return response
        if self._tells_usage:
            response.usage.CopyFrom(_usage(answer.usage))
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


def _resumption(resumption: Resumption) -> common_pb2.Resumption:
    return common_pb2.Resumption(
        id=resumption.id,
        created=resumption.created,
        seed=resumption.seed,  # 64 signed bits, as every seed over gRPC
        recalled_reasoning=resumption.recalled_reasoning,
    )


def _logprobs(entries: Iterable[LogprobEntry]) -> list[common_pb2.TokenLogprobs]:
    return [
        common_pb2.TokenLogprobs(chosen=_logprob(entry.chosen), top=map(_logprob, entry.top))
        for entry in entries
    ]


def _logprob(token: TokenLogprob) -> common_pb2.TokenLogprob:
    return common_pb2.TokenLogprob(token_id=token.token_id, token=token.token, logprob=token.logprob)
