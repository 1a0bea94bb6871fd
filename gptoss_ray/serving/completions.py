"""Completions: a prompt of text or tokens to the deltas of its continuations, and back together."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncGenerator, AsyncIterable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace

from gptoss_ray.config import LimitsConfig
from gptoss_ray.errors import InvalidRequestError
from gptoss_ray.generation import SamplingParams
from gptoss_ray.serving.answer import Answer, LogprobEntry, Usage, stream_all, stream_choice
from gptoss_ray.serving.completion_assembler import CompletionAssembler, CompletionDelta
from gptoss_ray.serving.metrics import IngressMetrics
from gptoss_ray.serving.models import ServedModel
from gptoss_ray.serving.openai_types import CompletionRequest
from gptoss_ray.serving.resumption import attempt_id, check_resumption, start_choices
from gptoss_ray.serving.resumption_types import Resumption
from gptoss_ray.serving.sampling import (
    check_counts,
    check_prompt,
    choice_requests,
    encode_prompt,
    fixed_seed,
    sampling_params,
)
from gptoss_ray.serving.structured_request import grammar_of_completion

DEFAULT_MAX_TOKENS = 16
_SEED_STRIDE = 0x9E3779B97F4A7C15 >> 1  # far apart, and each another one


@dataclass
class CompletionChoice:
    """The fold of one choice's deltas."""

    index: int
    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[LogprobEntry] = field(default_factory=list)
    finish_reason: str = "stop"


async def start_completion(
    request: CompletionRequest,
    model: ServedModel,
    limits: LimitsConfig,
    *,
    metrics: IngressMetrics,
    tenant: str,
    created: int,
    abort_key: str = "",
) -> Answer[CompletionDelta]:
    """Validate a request and return its answer, of which nothing runs before its events are read.

    `abort_key` is that of the requests for tokens.

    Raises:
        InvalidRequestError: A field is wrong; `param` names it.
    """
    check_counts(request, limits)
    _check_best_of(request)
    _check_max_tokens(request)
    grammar = await grammar_of_completion(request)
    prompts = await asyncio.to_thread(_encode_prompts, request, model)
    resumption = request.resumption
    if resumption is not None:
        created = resumption.created
    answer_id = resumption.id if resumption else f"cmpl-{uuid.uuid4().hex}"
    attempt = attempt_id(answer_id, resumption)
    seed = fixed_seed(request)
    requests = [
        choice_request
        for number, prompt in enumerate(prompts)
        for choice_request in choice_requests(
            f"{attempt}-{number}",
            prompt,
            _params(request, model, len(prompt), grammar, _seed_of_prompt(request, seed, number)),
            request.num_drawn,
            tenant,
            abort_key,
        )
    ]
    check_resumption(request, model, len(requests), max(each.params.max_tokens for each in requests))
    usage = Usage(prompt_tokens=sum(map(len, prompts)))

    def assembler(index: int) -> CompletionAssembler:
        return CompletionAssembler(index, model.encoding, request, requests[index])

    choices = await start_choices(requests, assembler, resumption, usage)
    streams = [stream_choice(model, *choice, usage, metrics) for choice in choices]
    events = stream_all(streams, usage)
    if request.num_drawn > request.num_choices:
        drawn = [assembler for _, assembler in choices if isinstance(assembler, CompletionAssembler)]
        events = _keep_best(events, drawn, request, usage)
    fixed = Resumption(id=answer_id, created=created, seed=seed)
    return Answer(answer_id, model.name, created, usage, events, fixed if request.tells_tokens else None)


async def _keep_best(
    events: AsyncGenerator[CompletionDelta | Usage, None],
    assemblers: Sequence[CompletionAssembler],
    request: CompletionRequest,
    usage: Usage,
) -> AsyncGenerator[CompletionDelta | Usage, None]:
    """Hold all back to the end, then yield each prompt's most likely choices, best first, numbered anew."""
    deltas: list[list[CompletionDelta]] = [[] for _ in assemblers]
    async with aclosing(events):
        async for event in events:
            if isinstance(event, CompletionDelta):
                deltas[event.index].append(event)
    kept = []
    for first in range(0, len(assemblers), request.num_drawn):
        candidates = range(first, first + request.num_drawn)
        best_first = sorted(candidates, key=lambda index: -assemblers[index].mean_logprob)
        kept += best_first[: request.num_choices]
    for index, candidate in enumerate(kept):
        for delta in deltas[candidate]:
            yield replace(delta, index=index)
    yield usage


def _check_best_of(request: CompletionRequest) -> None:
    if request.num_drawn < request.num_choices:
        raise InvalidRequestError(
            f"best_of is {request.best_of}, less than n, {request.n}; draw at least as many as are shown.",
            param="best_of",
        )
    if request.stream and request.num_drawn > request.num_choices:
        raise InvalidRequestError(
            "best_of is known only at the end, so it cannot be streamed; leave out best_of or stream.",
            param="best_of",
        )


def _check_max_tokens(request: CompletionRequest) -> None:
    if request.max_tokens == 0 and not request.echo:
        raise InvalidRequestError(
            "max_tokens is 0, which leaves nothing to answer without echo; set echo, or send at least 1.",
            param="max_tokens",
        )


def _seed_of_prompt(request: CompletionRequest, seed: int, number: int) -> int:
    """Return a prompt's seed: the client's, or one of its own: equal prompts get different answers."""
    return seed if request.seed is not None or not number else (seed + number * _SEED_STRIDE) % (1 << 63)


def _params(
    request: CompletionRequest, model: ServedModel, num_prompt_tokens: int, grammar: str | None, seed: int
) -> SamplingParams:
    return sampling_params(
        request,
        model,
        seed=seed,
        num_prompt_tokens=num_prompt_tokens,
        max_tokens=DEFAULT_MAX_TOKENS if request.max_tokens is None else request.max_tokens,
        # The best of several is found by them.
        logprobs=0 if request.logprobs is None and request.best_of else request.logprobs,
        prompt_logprobs=request.logprobs if request.echo else None,
        grammar=grammar,
    )


def _encode_prompts(request: CompletionRequest, model: ServedModel) -> list[list[int]]:
    """Return the prompts as tokens, checked."""
    prompts = []
    for index, prompt in enumerate(request.prompt):
        param = "prompt" if len(request.prompt) == 1 else f"prompt[{index}]"
        token_ids = encode_prompt(prompt, model, param) if isinstance(prompt, str) else prompt
        check_prompt(token_ids, model, param)
        prompts.append(token_ids)
    return prompts


async def fold_completion(
    events: AsyncIterable[CompletionDelta | Usage],
) -> tuple[list[CompletionChoice], Usage]:
    """Put a stream's deltas together: the answer of a request that does not stream."""
    choices: dict[int, CompletionChoice] = {}
    usage = Usage()
    async for event in events:
        if isinstance(event, Usage):
            usage = event
            continue
        choice = choices.setdefault(event.index, CompletionChoice(event.index))
        choice.text += event.text
        choice.token_ids += event.token_ids
        choice.logprobs += event.logprobs
        choice.finish_reason = event.finish_reason or choice.finish_reason
    return [choices[index] for index in sorted(choices)], usage
