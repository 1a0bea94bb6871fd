"""Chat: messages to a prompt, tokens to deltas of reasoning, content and tool calls, and back together."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Iterator, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from functools import partial

from gptoss_ray.config import LimitsConfig
from gptoss_ray.errors import InvalidRequestError
from gptoss_ray.generation import FinishReason, TokenOutput
from gptoss_ray.harmony.encoding import HarmonyEncoding
from gptoss_ray.harmony.prompt import ToolCall
from gptoss_ray.harmony.stream_parser import Delta, StreamParser
from gptoss_ray.serving.answer import Answer, LogprobEntry, Usage, logprob_entry, stream_all, stream_choice
from gptoss_ray.serving.chat_prompt import check_size, conversation, render_request
from gptoss_ray.serving.metrics import IngressMetrics
from gptoss_ray.serving.models import ServedModel
from gptoss_ray.serving.openai_types import ChatCompletionRequest, ChatFields
from gptoss_ray.serving.reasoning_cache import ReasoningCache
from gptoss_ray.serving.sampling import check_counts, check_prompt, choice_requests, sampling_params
from gptoss_ray.serving.structured_request import grammar_of_chat
from gptoss_ray.serving.text_gate import TextGate

Remember = Callable[[list[str], str], None]


@dataclass(frozen=True, slots=True)
class ToolCallDelta:
    """A piece of a tool call; the first one of a call carries its id and name."""

    index: int
    id: str = ""
    name: str = ""
    arguments: str = ""


@dataclass(slots=True)  # not frozen: one is made for each token, in a third of the time
class ChatDelta:
    """What is new in one choice: text to be appended, or a piece of a call, or why it ended.

    `finish_reason` is "stop", "length" or "tool_calls", in the last delta of a choice. `message_index` tells
    which of the model's messages a text belongs to, `is_remark` that it is said before a call.
    """

    index: int
    reasoning: str = ""
    content: str = ""
    tool_call: ToolCallDelta | None = None
    logprobs: tuple[LogprobEntry, ...] = ()
    finish_reason: str | None = None
    message_index: int = 0
    is_remark: bool = False


@dataclass
class ChatChoice:
    """The fold of one choice's deltas."""

    index: int
    reasoning: str = ""
    content: str = ""
    tool_calls: list[ToolCall] = field(default_factory=list)
    logprobs: list[LogprobEntry] = field(default_factory=list)
    finish_reason: str = "stop"


class ChatAssembler:
    """Turns the tokens of one choice into deltas.

    Attributes:
        finish_reason: Why the choice ended, as its last delta says; None while it has not.
    """

    def __init__(
        self, index: int, encoding: HarmonyEncoding, request: ChatFields, remember: Remember
    ) -> None:
        """Start a choice; at its end `remember` is told the ids of its calls and what was thought before."""
        self.finish_reason: str | None = None
        self._index = index
        self._encoding = encoding
        self._parser = StreamParser(encoding)
        self._gate: TextGate[LogprobEntry] = TextGate(
            request.stop, includes_stop=bool(request.include_stop_str_in_output)
        )
        self._tool_names = {tool.function.name for tool in request.tools or ()}
        self._ignores_end = bool(request.ignore_eos)
        self._remember = remember
        self._call_ids: list[str] = []
        self._reasoning: list[str] = []
        self._logprobs: list[LogprobEntry] = []
        self._message_index = 0  # of the content that the gate may hold back
        self._is_remark = False

    @property
    def num_reasoning_tokens(self) -> int:
        """Tokens of reasoning so far."""
        return self._parser.num_reasoning_tokens

    @property
    def repairs(self) -> Mapping[str, int]:
        """How often the output was not well-formed, by kind."""
        return self._parser.repairs

    def feed(self, output: TokenOutput) -> list[ChatDelta]:
        """Return what the output's tokens add to the choice."""
        deltas: list[ChatDelta] = []
        for position, token_id in enumerate(output.token_ids):
            if output.logprobs:
                self._logprobs.append(logprob_entry(self._encoding, token_id, output.logprobs[position]))
            deltas += self._deltas(self._parser.feed((token_id,)))
            if self._gate.stopped:
                return [*deltas, self._end("stop")]
        if output.finish_reason is not None:
            deltas += self._deltas(self._parser.finish())
            if self._gate.stopped:
                return [*deltas, self._end("stop")]
            text, logprobs = self._gate.flush()
            deltas += self._content(text, logprobs)
        is_over = self._parser.is_done and not self._ignores_end
        if output.finish_reason is FinishReason.LENGTH and not is_over:
            deltas.append(self._end("length"))
        elif output.finish_reason is not None or is_over:
            deltas.append(self._end("tool_calls" if self._call_ids else "stop"))
        return deltas

    def _end(self, reason: str) -> ChatDelta:
        self.finish_reason = reason
        self._remember(self._call_ids, "".join(self._reasoning))
        return ChatDelta(self._index, finish_reason=reason)

    def _deltas(self, pieces: list[Delta]) -> list[ChatDelta]:
        """Return what pieces of harmony messages are to a client; nothing behind a stop string."""
        deltas: list[ChatDelta] = []
        for piece in pieces:
            if self._gate.stopped:
                break
            if (name := self._function_name(piece)) is not None:
                deltas += self._tool_call(piece, name)
            elif piece.channel == "analysis" or piece.recipient is not None:
                if piece.text:
                    self._reasoning.append(piece.text)
                    deltas.append(
                        ChatDelta(self._index, reasoning=piece.text, message_index=piece.message_index)
                    )
            else:
                self._message_index = piece.message_index
                self._is_remark = piece.channel == "commentary"
                tokens = slice(piece.first_token, piece.first_token + piece.num_tokens)
                deltas += self._content(*self._gate.feed(piece.text, self._logprobs[tokens]))
                if piece.ends_message:
                    deltas += self._content(*self._gate.flush())
        return deltas

    def _function_name(self, piece: Delta) -> str | None:
        """Return the function called; models now and then leave out `functions.` before an offered one."""
        if piece.recipient is None:
            return None
        return piece.recipient if piece.recipient in self._tool_names else piece.function_name

    def _tool_call(self, piece: Delta, name: str) -> Iterator[ChatDelta]:
        if piece.starts_message:
            self._call_ids.append(f"call_{uuid.uuid4().hex}")
            call = ToolCallDelta(len(self._call_ids) - 1, id=self._call_ids[-1], name=name)
            yield ChatDelta(self._index, tool_call=call)
        if piece.text:
            arguments = ToolCallDelta(len(self._call_ids) - 1, arguments=piece.text)
            yield ChatDelta(self._index, tool_call=arguments)

    def _content(self, text: str, logprobs: list[LogprobEntry]) -> list[ChatDelta]:
        if not (text or logprobs):
            return []
        return [
            ChatDelta(
                self._index,
                content=text,
                logprobs=tuple(logprobs),
                message_index=self._message_index,
                is_remark=self._is_remark,
            )
        ]


async def start_chat(
    request: ChatCompletionRequest,
    model: ServedModel,
    limits: LimitsConfig,
    *,
    metrics: IngressMetrics,
    reasoning: ReasoningCache,
    tenant: str,
    created: int,
) -> Answer[ChatDelta]:
    """Validate a request and return its answer, of which nothing runs before its events are read.

    `created` is Unix time in seconds; the prompt tells its day (UTC). `reasoning` gives back what the
    client left out of the assistant's messages, and remembers what this answer thinks before its calls.

    Raises:
        InvalidRequestError: A field is wrong; `param` names it.
    """
    check_counts(request, limits)
    check_size("messages", len(request.messages), limits.max_messages)
    check_size("tools", len(request.tools or ()), limits.max_tools)
    grammar = await grammar_of_chat(request)
    messages = conversation(request, partial(reasoning.find, tenant))
    prompt = await asyncio.to_thread(render_request, request, messages, model.encoding, created=created)
    check_prompt(prompt, model, "messages")
    return begin_chat(
        request,
        prompt,
        grammar,
        model,
        answer_id=f"chatcmpl-{uuid.uuid4().hex}",
        metrics=metrics,
        reasoning=reasoning,
        tenant=tenant,
        created=created,
    )


def begin_chat(
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
) -> Answer[ChatDelta]:
    """Return the answer to a prompt that has been checked; see `start_chat`."""
    params = sampling_params(
        request,
        model,
        num_prompt_tokens=len(prompt),
        max_tokens=request.max_completion_tokens or request.max_tokens,
        logprobs=_num_logprobs(request),
        grammar=grammar,
    )
    usage = Usage(prompt_tokens=len(prompt))
    streams = [
        stream_choice(
            model,
            generation,
            ChatAssembler(index, model.encoding, request, partial(reasoning.keep, tenant)),
            usage,
            metrics,
        )
        for index, generation in enumerate(
            choice_requests(answer_id, prompt, params, request.num_choices, tenant)
        )
    ]
    events = stream_all(streams, usage)
    if len(streams) > 1:
        events = _start_in_order(events)
    return Answer(answer_id, model.name, created, usage, events)


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
