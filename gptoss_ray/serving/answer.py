"""One answer under way: the outputs of its choices, merged, counted, and closed when the reader leaves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Generic, NamedTuple, Protocol, TypeVar

from gptoss_ray.errors import InternalError, RequestAbortedError, RequestLostError
from gptoss_ray.generation import FinishReason, GenerationRequest, TokenLogprobs, TokenOutput
from gptoss_ray.harmony.encoding import HarmonyEncoding
from gptoss_ray.serving.metrics import IngressMetrics
from gptoss_ray.serving.models import ServedModel
from gptoss_ray.serving.resumption_types import Resumption

ItemT = TypeVar("ItemT")
DeltaT_co = TypeVar("DeltaT_co", covariant=True)


MIN_LOGPROB = -9999.0
"""OpenAI's stand-in for minus infinity, which JSON cannot say."""


@dataclass
class Usage:
    """Tokens that a request used, over all its prompts and choices; counted as outputs arrive."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    reasoning_tokens: int = 0

    @property
    def total_tokens(self) -> int:
        """Prompt and output together."""
        return self.prompt_tokens + self.completion_tokens


@dataclass(frozen=True)
class Answer(Generic[ItemT]):
    """What both protocols encode: events in order, the last of them a `Usage`.

    `events` must be closed by whoever reads it; that aborts what is still running. `usage` counts while
    they are read; the last event is the same object. `resumption` is what the first piece tells of an answer
    that can be resumed.
    """

    id: str
    model: str
    created: int
    usage: Usage
    events: AsyncGenerator[ItemT | Usage, None]
    resumption: Resumption | None = None


class TokenLogprob(NamedTuple):
    """A token, its bytes, and its log probability, at least `MIN_LOGPROB`; None at the start of a prompt."""

    token_id: int
    token: bytes
    logprob: float | None


class LogprobEntry(NamedTuple):
    """The log probability of a token and of the most likely ones in its place, most likely first.

    `text_offset` is how many characters of a completion's text come before the token.
    """

    chosen: TokenLogprob
    top: tuple[TokenLogprob, ...]
    text_offset: int = 0


class Assembler(Protocol[DeltaT_co]):
    """Turns the tokens of one choice into deltas."""

    @property
    def finish_reason(self) -> str | None:
        """Why the choice ended, as its last delta says; None while it has not."""
        ...

    @property
    def repairs(self) -> Mapping[str, int]:
        """How often the output was not well-formed, by kind."""
        ...

    @property
    def num_reasoning_tokens(self) -> int:
        """Tokens of reasoning so far."""
        ...

    def feed(self, output: TokenOutput) -> Sequence[DeltaT_co]:
        """Return what is new."""
        ...


def logprob_entry(
    encoding: HarmonyEncoding, token_id: int, logprobs: TokenLogprobs | None, text_offset: int = 0
) -> LogprobEntry:
    """Return a token's log probabilities, None for a prompt's first token, with the bytes of the tokens."""
    if logprobs is None:
        return LogprobEntry(TokenLogprob(token_id, encoding.token_bytes(token_id), None), (), text_offset)

    def with_bytes(token_id: int, logprob: float) -> TokenLogprob:
        return TokenLogprob(token_id, encoding.token_bytes(token_id), max(logprob, MIN_LOGPROB))

    top = tuple(with_bytes(other, logprob) for other, logprob in logprobs.top)
    return LogprobEntry(with_bytes(token_id, logprobs.logprob), top, text_offset)


async def stream_choice(
    model: ServedModel,
    request: GenerationRequest,
    assembler: Assembler[ItemT],
    usage: Usage,
    metrics: IngressMetrics,
) -> AsyncGenerator[ItemT, None]:
    """Yield the deltas of one choice; closing it, or its end by a stop string, aborts the request.

    Raises:
        GptossError: The request was refused, failed, or was lost.
    """
    with metrics.watch(model.name, len(request.prompt_token_ids)) as watch:
        async with aclosing(model.token_source.generate(request)) as outputs:
            is_first = True
            async for output in outputs:
                _raise_failure(output)
                usage.completion_tokens += len(output.token_ids)
                if is_first and request.params.choice_index == 0:
                    usage.cached_tokens += output.num_cached_tokens
                    watch.took_prompt(len(request.prompt_token_ids), output.num_cached_tokens)
                is_first = False
                watch.took_output(output)
                for delta in assembler.feed(output):
                    yield delta
                if assembler.finish_reason is not None:
                    usage.reasoning_tokens += assembler.num_reasoning_tokens
                    watch.ended(assembler.finish_reason, assembler.repairs, assembler.num_reasoning_tokens)
                    return
        raise RequestLostError("The replica that made this answer was lost; send the request again.")


def _raise_failure(output: TokenOutput) -> None:
    if output.finish_reason is FinishReason.ERROR:
        raise output.error or InternalError("The engine failed on this request.")
    if output.finish_reason is FinishReason.ABORT:
        raise RequestAbortedError("The request was aborted.")


async def merge(streams: Sequence[AsyncGenerator[ItemT, None]]) -> AsyncGenerator[ItemT, None]:
    """Yield the items of all streams as they come; one that fails, or the reader leaving, closes all."""
    waiting: dict[asyncio.Task[ItemT], AsyncGenerator[ItemT, None]] = {}
    try:
        for stream in streams:
            waiting[_next_item(stream)] = stream
        while waiting:
            done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            for task in [task for task in waiting if task in done]:  # in order, for a set has none
                stream = waiting[task]
                try:
                    item = task.result()
                except StopAsyncIteration:
                    del waiting[task]
                    continue
                yield item
                del waiting[task]
                waiting[_next_item(stream)] = stream
    finally:
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        for stream in streams:
            await stream.aclose()


def _next_item(stream: AsyncGenerator[ItemT, None]) -> asyncio.Task[ItemT]:
    async def next_item() -> ItemT:
        return await anext(stream)

    return asyncio.create_task(next_item())


async def stream_all(
    streams: Sequence[AsyncGenerator[ItemT, None]], usage: Usage
) -> AsyncGenerator[ItemT | Usage, None]:
    """Yield the deltas of all choices and then the usage, complete by then."""
    # A single choice, by far the most common, needs no task per token.
    async with aclosing(streams[0] if len(streams) == 1 else merge(streams)) as deltas:
        async for delta in deltas:
            yield delta
    yield usage
