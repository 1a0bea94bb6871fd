"""Chat: messages to a prompt, tokens to deltas of reasoning, content and tool calls, and back together."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncGenerator, AsyncIterable
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from functools import partial

from gptoss_ray.config import LimitsConfig
from gptoss_ray.errors import InvalidRequestError
from gptoss_ray.harmony.prompt import ToolCall
from gptoss_ray.serving.answer import (
    Answer,
    LogprobEntry,
    Usage,
    stream_all,
    stream_choice,
)
from gptoss_ray.serving.chat_assembler import ChatAssembler, ChatDelta
from gptoss_ray.serving.chat_prompt import check_size, conversation, render_request
from gptoss_ray.serving.metrics import IngressMetrics
from gptoss_ray.serving.models import ServedModel
from gptoss_ray.serving.openai_types import ChatCompletionRequest, ChatFields
from gptoss_ray.serving.reasoning_cache import ReasoningCache
from gptoss_ray.serving.resumption import RecallLog, attempt_id, check_resumption, start_choices
from gptoss_ray.serving.resumption_types import Resumption
from gptoss_ray.serving.sampling import check_counts, check_prompt, choice_requests, sampling_params
from gptoss_ray.serving.structured_request import grammar_of_chat


@dataclass
class ChatChoice:
    """The fold of one choice's deltas."""

    index: int
    reasoning: str = ""
    content: str = ""
    tool_calls: list[ToolCall] = field(default_factory=list)
    logprobs: list[LogprobEntry] = field(default_factory=list)
    finish_reason: str = "stop"


async def start_chat(
    request: ChatCompletionRequest,
    model: ServedModel,
    limits: LimitsConfig,
    *,
    metrics: IngressMetrics,
    reasoning: ReasoningCache,
    tenant: str,
    created: int,
    abort_key: str = "",
) -> Answer[ChatDelta]:
    """Validate a request and return its answer, of which nothing runs before its events are read.

    `created` is Unix time in seconds; the prompt tells its day (UTC). `reasoning` gives back what the
    client left out of the assistant's messages, and remembers what this answer thinks before its calls.
    `abort_key` is that of the requests for tokens.

    Raises:
        InvalidRequestError: A field is wrong; `param` names it.
    """
    check_counts(request, limits)
    check_size("messages", len(request.messages), limits.max_messages)
    check_size("tools", len(request.tools or ()), limits.max_tools)
    grammar = await grammar_of_chat(request)
    resumption = request.resumption
    if resumption is not None:
        created = resumption.created
    recall = RecallLog(partial(reasoning.find, tenant), resumption)
    messages = conversation(request, recall)
    prompt = await asyncio.to_thread(render_request, request, messages, model.encoding, created=created)
    check_prompt(prompt, model, "messages")
    answer = await begin_chat(
        request,
        prompt,
        grammar,
        model,
        answer_id=resumption.id if resumption else f"chatcmpl-{uuid.uuid4().hex}",
        metrics=metrics,
        reasoning=reasoning,
        tenant=tenant,
        created=created,
        abort_key=abort_key,
    )
    if answer.resumption is None:
        return answer
    fixed = answer.resumption.model_copy(update={"recalled_reasoning": recall.found})
    return replace(answer, resumption=fixed)


async def begin_chat(
    request: ChatFields,
    prompt: list[int],
    grammar: str | None,
    model: ServedModel,
    *,
    answer_id: str,
    metrics: IngressMetrics,
    reasoning: ReasoningCache,
    tenant: str,
    created: int,
    abort_key: str = "",
) -> Answer[ChatDelta]:
    """Return the answer to a prompt that has been checked; see `start_chat`."""
    resumption = request.resumption
    params = sampling_params(
        request,
        model,
        num_prompt_tokens=len(prompt),
        max_tokens=request.max_completion_tokens or request.max_tokens,
        logprobs=_num_logprobs(request),
        grammar=grammar,
    )
    check_resumption(request, model, request.num_choices, params.max_tokens)
    usage = Usage(prompt_tokens=len(prompt))

    def assembler(index: int) -> ChatAssembler:
        return ChatAssembler(index, model.encoding, request, partial(reasoning.keep, tenant), answer_id)

    generations = choice_requests(
        attempt_id(answer_id, resumption), prompt, params, request.num_choices, tenant, abort_key
    )
    choices = await start_choices(generations, assembler, resumption, usage)
    streams = [stream_choice(model, *choice, usage, metrics) for choice in choices]
    events = stream_all(streams, usage)
    if len(streams) > 1:
        events = _start_in_order(events)
    fixed = Resumption(id=answer_id, created=created, seed=params.seed)
    return Answer(answer_id, model.name, created, usage, events, fixed if request.tells_tokens else None)


async def _start_in_order(
    events: AsyncGenerator[ChatDelta | Usage, None],
) -> AsyncGenerator[ChatDelta | Usage, None]:
    """Yield the events, and an empty delta first of each choice that a later one would overtake.

    The openai SDK's accumulator numbers the choices in the order in which they start.
    """
    num_started = 0
    async with aclosing(events):
        async for event in events:
            if isinstance(event, ChatDelta):
                for index in range(num_started, event.index):
                    yield ChatDelta(index)
                num_started = max(num_started, event.index + 1)
            yield event


async def fold_chat(events: AsyncIterable[ChatDelta | Usage]) -> tuple[list[ChatChoice], Usage]:
    """Put a stream's deltas together: the answer of a request that does not stream."""
    choices: dict[int, ChatChoice] = {}
    usage = Usage()
    async for event in events:
        if isinstance(event, Usage):
            usage = event
        else:
            _add(choices.setdefault(event.index, ChatChoice(event.index)), event)
    return [choices[index] for index in sorted(choices)], usage


def _add(choice: ChatChoice, delta: ChatDelta) -> None:
    choice.reasoning += delta.reasoning
    choice.content += delta.content
    choice.logprobs += delta.logprobs
    choice.finish_reason = delta.finish_reason or choice.finish_reason
    if (piece := delta.tool_call) is None:
        return
    if piece.index == len(choice.tool_calls):
        choice.tool_calls.append(ToolCall(piece.id, piece.name, piece.arguments))
    else:
        call = choice.tool_calls[piece.index]
        choice.tool_calls[piece.index] = ToolCall(call.id, call.name, call.arguments + piece.arguments)


def _num_logprobs(request: ChatFields) -> int | None:
    if request.top_logprobs is not None and not request.logprobs:
        raise InvalidRequestError(
            "top_logprobs is set without logprobs; set logprobs to true.", param="top_logprobs"
        )
    return (request.top_logprobs or 0) if request.logprobs else None
