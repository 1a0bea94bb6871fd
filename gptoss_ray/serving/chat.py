"""Chat: messages to a prompt, tokens to deltas of reasoning, content and tool calls, and back together."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterable, Iterator
from dataclasses import dataclass, field

from gptoss_ray.config import LimitsConfig
from gptoss_ray.errors import InvalidRequestError
from gptoss_ray.generation import FinishReason, TokenOutput
from gptoss_ray.harmony.encoding import HarmonyEncoding
from gptoss_ray.harmony.prompt import Message, PromptOptions, Tool, ToolCall, render_chat
from gptoss_ray.harmony.stream_parser import Delta, StreamParser
from gptoss_ray.serving.answer import Answer, LogprobEntry, Usage, logprob_entry, stream_all, stream_choice
from gptoss_ray.serving.models import ServedModel
from gptoss_ray.serving.openai_types import ChatCompletionRequest, ChatMessage, ToolDefinition
from gptoss_ray.serving.sampling import check_counts, check_prompt, choice_requests, sampling_params
from gptoss_ray.serving.structured_request import described_format, grammar_of_chat
from gptoss_ray.serving.text_gate import TextGate


@dataclass(frozen=True, slots=True)
class ToolCallDelta:
    """A piece of a tool call; the first one of a call carries its id and name."""

    index: int
    id: str = ""
    name: str = ""
    arguments: str = ""


@dataclass(frozen=True, slots=True)
class ChatDelta:
    """What is new in one choice: text to be appended, or a piece of a call, or why it ended.

    `finish_reason` is "stop", "length" or "tool_calls", in the last delta of a choice.
    """

    index: int
    reasoning: str = ""
    content: str = ""
    tool_call: ToolCallDelta | None = None
    logprobs: tuple[LogprobEntry, ...] = ()
    finish_reason: str | None = None


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
        finished: The choice has ended; its last delta carried the reason.
    """

    def __init__(self, index: int, encoding: HarmonyEncoding, request: ChatCompletionRequest) -> None:
        self.finished = False
        self._index = index
        self._encoding = encoding
        self._parser = StreamParser(encoding)
        self._gate: TextGate[LogprobEntry] = TextGate(request.stop)
        self._tool_names = {tool.function.name for tool in request.tools or ()}
        self._ignores_end = bool(request.ignore_eos)
        self._num_calls = 0
        self._logprobs: list[LogprobEntry] = []

    @property
    def num_reasoning_tokens(self) -> int:
        """Tokens of reasoning so far."""
        return self._parser.num_reasoning_tokens

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
            deltas.append(self._end("tool_calls" if self._num_calls else "stop"))
        return deltas

    def _end(self, reason: str) -> ChatDelta:
        self.finished = True
        return ChatDelta(self._index, finish_reason=reason)

    def _deltas(self, pieces: list[Delta]) -> Iterator[ChatDelta]:
        """Yield what pieces of harmony messages are to a client; nothing behind a stop string."""
        for piece in pieces:
            if self._gate.stopped:
                return
            if (name := self._function_name(piece)) is not None:
                yield from self._tool_call(piece, name)
            elif piece.channel == "analysis" or piece.recipient is not None:
                if piece.text:
                    yield ChatDelta(self._index, reasoning=piece.text)
            else:
                tokens = slice(piece.first_token, piece.first_token + piece.num_tokens)
                yield from self._content(*self._gate.feed(piece.text, self._logprobs[tokens]))
                if piece.ends_message:
                    yield from self._content(*self._gate.flush())

    def _function_name(self, piece: Delta) -> str | None:
        """Return the function called; models now and then leave out `functions.` before an offered one."""
        is_offered = piece.recipient in self._tool_names
        return piece.recipient if is_offered else piece.function_name

    def _tool_call(self, piece: Delta, name: str) -> Iterator[ChatDelta]:
        if piece.starts_message:
            self._num_calls += 1
            call = ToolCallDelta(self._num_calls - 1, id=f"call_{uuid.uuid4().hex}", name=name)
            yield ChatDelta(self._index, tool_call=call)
        if piece.text:
            yield ChatDelta(self._index, tool_call=ToolCallDelta(self._num_calls - 1, arguments=piece.text))

    def _content(self, text: str, logprobs: list[LogprobEntry]) -> Iterator[ChatDelta]:
        if text or logprobs:
            yield ChatDelta(self._index, content=text, logprobs=tuple(logprobs))


async def start_chat(
    request: ChatCompletionRequest, model: ServedModel, limits: LimitsConfig, *, tenant: str, created: int
) -> Answer[ChatDelta]:
    """Validate a request and return its answer, of which nothing runs before its events are read.

    `created` is Unix time in seconds; the prompt tells its day (UTC).

    Raises:
        InvalidRequestError: A field is wrong; `param` names it.
    """
    check_counts(request, limits)
    _check_sizes(request, limits)
    options = PromptOptions(
        current_date=time.strftime("%Y-%m-%d", time.gmtime(created)),
        reasoning_effort=request.effort,
        tool_choice="none" if request.tool_choice and request.tool_choice.mode == "none" else "auto",
        response_format=described_format(request),
    )
    grammar = await grammar_of_chat(request)
    messages = [_message(message) for message in request.messages]
    tools = [_tool(tool) for tool in request.tools or ()]
    prompt = await asyncio.to_thread(render_chat, model.encoding, messages, tools, options)
    check_prompt(prompt, model, "messages")
    params = sampling_params(
        request,
        model,
        num_prompt_tokens=len(prompt),
        max_tokens=request.max_completion_tokens or request.max_tokens,
        logprobs=_num_logprobs(request),
        grammar=grammar,
    )
    answer_id = f"chatcmpl-{uuid.uuid4().hex}"
    usage = Usage(prompt_tokens=len(prompt))
    streams = [
        stream_choice(model, generation, ChatAssembler(index, model.encoding, request), usage)
        for index, generation in enumerate(
            choice_requests(answer_id, prompt, params, request.num_choices, tenant)
        )
    ]
    return Answer(answer_id, model.name, created, stream_all(streams, usage))


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


def _check_sizes(request: ChatCompletionRequest, limits: LimitsConfig) -> None:
    """Raise InvalidRequestError where there are more messages or tools than allowed."""
    for name, items, limit in (
        ("messages", request.messages, limits.max_messages),
        ("tools", request.tools or [], limits.max_tools),
    ):
        if len(items) > limit:
            raise InvalidRequestError(f"{name} has {len(items)} items; send at most {limit}.", param=name)


def _num_logprobs(request: ChatCompletionRequest) -> int | None:
    if request.top_logprobs is not None and not request.logprobs:
        raise InvalidRequestError(
            "top_logprobs is set without logprobs; set logprobs to true.", param="top_logprobs"
        )
    return (request.top_logprobs or 0) if request.logprobs else None


def _message(message: ChatMessage) -> Message:
    calls = (
        ToolCall(call.id, call.function.name, call.function.arguments) for call in message.tool_calls or ()
    )
    return Message(
        role=message.role,
        content=message.content,
        reasoning=message.reasoning or message.reasoning_content,
        tool_calls=tuple(calls),
        tool_call_id=message.tool_call_id,
    )


def _tool(tool: ToolDefinition) -> Tool:
    function = tool.function
    return Tool(function.name, function.description or "", function.parameters)
