"""Completions: a prompt of text or tokens to the deltas of its continuations, and back together."""

from __future__ import annotations

import asyncio
import codecs
import uuid
from collections.abc import AsyncIterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from gptoss_ray.config import LimitsConfig
from gptoss_ray.errors import InvalidRequestError
from gptoss_ray.generation import FinishReason, SamplingParams, TokenOutput
from gptoss_ray.harmony.encoding import HarmonyEncoding
from gptoss_ray.serving.answer import Answer, LogprobEntry, Usage, logprob_entry, stream_all, stream_choice
from gptoss_ray.serving.models import ServedModel
from gptoss_ray.serving.openai_types import CompletionRequest
from gptoss_ray.serving.sampling import check_counts, check_prompt, choice_requests, sampling_params
from gptoss_ray.serving.structured_request import grammar_of_completion
from gptoss_ray.serving.text_gate import TextGate

DEFAULT_MAX_TOKENS = 16
MAX_PROMPTS = 128

_Piece: TypeAlias = tuple[str, list[LogprobEntry]]


@dataclass(frozen=True, slots=True)
class CompletionDelta:
    """What is new in one choice.

    Attributes:
        index: Of the choice; prompt p's choices are p * n to p * n + n - 1.
        text: To be appended; without the token that ended the choice.
        token_ids: To be appended; with the token that ended the choice.
        logprobs: One entry for each token of the text so far, where they were asked for.
        finish_reason: "stop" or "length", in the last delta of a choice.
    """

    index: int
    text: str = ""
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[LogprobEntry, ...] = ()
    finish_reason: str | None = None


@dataclass
class CompletionChoice:
    """The fold of one choice's deltas."""

    index: int
    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[LogprobEntry] = field(default_factory=list)
    finish_reason: str = "stop"


class CompletionAssembler:
    """Turns the tokens of one choice into text.

    Attributes:
        finished: The choice has ended; its last delta carried the reason.
        num_reasoning_tokens: None: a completion has no channels.
    """

    num_reasoning_tokens = 0

    def __init__(
        self, index: int, encoding: HarmonyEncoding, params: SamplingParams, stop: list[str]
    ) -> None:
        self.finished = False
        self._index = index
        self._encoding = encoding
        self._stop_token_ids = frozenset(params.stop_token_ids)
        self._gate: TextGate[LogprobEntry] = TextGate(stop)
        self._num_chars = 0
        # Bytes of a character that tokens have cut wait here for its rest.
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def feed(self, output: TokenOutput) -> list[CompletionDelta]:
        """Return what the output's tokens add to the choice."""
        pieces: list[_Piece] = []
        used: list[int] = []
        for token_id, logprobs in self._text_tokens(output):
            used.append(token_id)
            pieces.append(self._pass(self._encoding.token_bytes(token_id), logprobs))
            if self._gate.stopped:
                return [self._delta(pieces, used, "stop")]
        if output.finish_reason is None:
            return [self._delta(pieces, output.token_ids, None)]
        pieces.append(self._gate.feed(self._decoder.decode(b"", final=True)))
        pieces.append(self._gate.flush())
        return [self._delta(pieces, output.token_ids, output.finish_reason.value)]

    def _text_tokens(self, output: TokenOutput) -> Iterator[tuple[int, list[LogprobEntry]]]:
        """Yield the tokens that are text, all but the one that ended the choice, with their logprobs."""
        for position, token_id in enumerate(output.token_ids):
            is_last = position == len(output.token_ids) - 1
            if is_last and output.finish_reason is FinishReason.STOP and token_id in self._stop_token_ids:
                return
            logprobs = output.logprobs[position : position + 1]
            yield (
                token_id,
                [logprob_entry(self._encoding, token_id, entry, self._num_chars) for entry in logprobs],
            )

    def _pass(self, token: bytes, logprobs: list[LogprobEntry]) -> _Piece:
        text = self._decoder.decode(token)
        self._num_chars += len(text)
        return self._gate.feed(text, logprobs)

    def _delta(self, pieces: list[_Piece], token_ids: Sequence[int], reason: str | None) -> CompletionDelta:
        self.finished = reason is not None
        text = "".join(text for text, _ in pieces)
        logprobs = tuple(entry for _, entries in pieces for entry in entries)
        return CompletionDelta(self._index, text, tuple(token_ids), logprobs, reason)


async def start_completion(
    request: CompletionRequest, model: ServedModel, limits: LimitsConfig, *, tenant: str, created: int
) -> Answer[CompletionDelta]:
    """Validate a request and return its answer, of which nothing runs before its events are read.

    Raises:
        InvalidRequestError: A field is wrong; `param` names it.
    """
    check_counts(request, limits)
    if len(request.prompt) > MAX_PROMPTS:
        raise InvalidRequestError(
            f"prompt has {len(request.prompt)} prompts; send at most {MAX_PROMPTS}.", param="prompt"
        )
    grammar = await grammar_of_completion(request)
    prompts = await asyncio.to_thread(_encode_prompts, request, model)
    answer_id = f"cmpl-{uuid.uuid4().hex}"
    requests = [
        choice_request
        for number, prompt in enumerate(prompts)
        for choice_request in choice_requests(
            f"{answer_id}-{number}",
            prompt,
            _params(request, model, len(prompt), grammar),
            request.num_choices,
            tenant,
        )
    ]
    usage = Usage(prompt_tokens=sum(map(len, prompts)))
    streams = [
        stream_choice(
            model,
            generation,
            CompletionAssembler(index, model.encoding, generation.params, request.stop),
            usage,
        )
        for index, generation in enumerate(requests)
    ]
    return Answer(answer_id, model.name, created, stream_all(streams, usage))


def _params(
    request: CompletionRequest, model: ServedModel, num_prompt_tokens: int, grammar: str | None
) -> SamplingParams:
    return sampling_params(
        request,
        model,
        num_prompt_tokens=num_prompt_tokens,
        max_tokens=DEFAULT_MAX_TOKENS if request.max_tokens is None else request.max_tokens,
        logprobs=request.logprobs,
        grammar=grammar,
    )


def _encode_prompts(request: CompletionRequest, model: ServedModel) -> list[list[int]]:
    """Return the prompts as tokens; harmony's markers in a text become control tokens, as users mean them."""
    prompts = []
    for index, prompt in enumerate(request.prompt):
        param = "prompt" if len(request.prompt) == 1 else f"prompt[{index}]"
        try:
            token_ids = model.encoding.encode_with_special(prompt) if isinstance(prompt, str) else prompt
        except ValueError as error:
            message = f"{param} cannot be split into tokens, such as a million spaces in a row; shorten it."
            raise InvalidRequestError(message, param=param) from error
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
