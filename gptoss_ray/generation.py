"""What crosses processes: a request for tokens on the way in, tokens on the way out.

`SamplingParams` is the one validator of sampling fields (HTTP, gRPC and Python callers alike):
its constructor raises `InvalidRequestError` naming the field, the value and the allowed range.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple

from gptoss_ray.errors import GptossError, InvalidRequestError

MAX_TOP_LOGPROBS = 20
MAX_LOGIT_BIAS_ENTRIES = 1024


class FinishReason(str, Enum):
    """Why a sequence ended."""

    STOP = "stop"
    LENGTH = "length"
    ABORT = "abort"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How tokens are drawn. Limits and penalties count from the original prompt (law 1).

    Attributes:
        temperature: 0 is greedy; otherwise logits are divided by it.
        top_p: Keep the smallest set of tokens whose probability reaches it; 1 keeps all.
        top_k: Keep the k most likely tokens; 0 keeps all.
        min_p: Drop tokens below this fraction of the most likely token's probability.
        presence_penalty: Subtracted once from the logit of each token generated so far.
        frequency_penalty: Subtracted from that logit once per occurrence.
        repetition_penalty: Divides (multiplies, if negative) logits of tokens in prompt and output.
        logit_bias: (token id, bias) pairs added to the logits.
        seed: Key of the random draws, any 64-bit integer; the ingress fixes one where the client gave none.
        choice_index: Which of a request's n choices this is; part of the key of the draws.
        max_tokens: At most so many output tokens; with 0 the prompt is scored, if that was asked for, and no
            token is drawn.
        min_tokens: Stop tokens cannot be drawn before so many output tokens.
        stop_token_ids: Drawing one ends the sequence with `FinishReason.STOP`; it is part of the output.
        logprobs: None for no log probabilities, else how many alternatives to report beside the drawn
            token's own (0 to 20). They are of the model's distribution before grammar, penalties and
            temperature.
        prompt_logprobs: The same for the tokens of the prompt. Such a prompt is computed whole: cached
            prefixes keep no logits.
        grammar: What the output is held to from its first token to the stop token, as llguidance reads it;
            None for any output. Control tokens stand in it by name.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    seed: int = 0
    choice_index: int = 0
    max_tokens: int = 16
    min_tokens: int = 0
    stop_token_ids: tuple[int, ...] = ()
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    grammar: str | None = None

    def __post_init__(self) -> None:
        _check_range("temperature", self.temperature, 0.0, 2.0)
        _check_range("top_p", self.top_p, 0.0, 1.0, low_is_open=True)
        _check_range("top_k", self.top_k, 0, 1 << 31)
        _check_range("min_p", self.min_p, 0.0, 1.0)
        _check_range("presence_penalty", self.presence_penalty, -2.0, 2.0)
        _check_range("frequency_penalty", self.frequency_penalty, -2.0, 2.0)
        _check_range("repetition_penalty", self.repetition_penalty, 0.0, 10.0, low_is_open=True)
        _check_range("seed", self.seed, -(1 << 63), (1 << 64) - 1)
        _check_range("choice_index", self.choice_index, 0, 1 << 16)
        _check_range("max_tokens", self.max_tokens, 0, 1 << 31)
        _check_range("min_tokens", self.min_tokens, 0, self.max_tokens)
        for name, num_top in (("logprobs", self.logprobs), ("prompt_logprobs", self.prompt_logprobs)):
            if num_top is not None:
                _check_range(name, num_top, 0, MAX_TOP_LOGPROBS)
        if len(self.logit_bias) > MAX_LOGIT_BIAS_ENTRIES:
            raise InvalidRequestError(
                f"logit_bias has {len(self.logit_bias)} entries; send at most {MAX_LOGIT_BIAS_ENTRIES}.",
                param="logit_bias",
            )
        for token_id, bias in self.logit_bias:
            _check_range("logit_bias", token_id, 0, (1 << 31) - 1)
            _check_range("logit_bias", bias, -100.0, 100.0)


def _check_range(name: str, value: float, low: float, high: float, *, low_is_open: bool = False) -> None:
    """Raise InvalidRequestError unless value is a finite number in [low, high] (or (low, high])."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    # An integer of hundreds of digits is finite, and too large to ask.
    is_number = is_number and (isinstance(value, int) or math.isfinite(value))
    if not is_number or value > high or value < low or (low_is_open and value == low):
        bound = "above" if low_is_open else "at least"
        raise InvalidRequestError(
            f"{name} is {repr(value)[:40]}; it must be {bound} {low:g} and at most {high:g}.", param=name
        )


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """A request for tokens, outside an engine.

    Attributes:
        request_id: Unique among live requests.
        prompt_token_ids: At least one id, each below the model's vocabulary size.
        params: How tokens are drawn.
        emitted_token_ids: Output of this request that was already delivered; generation goes on behind it
            as though it had never stopped (law 2).
        cache_salt: Prefix-cache entries are shared only between requests of equal salt (one per tenant).
        share: Of a full replica, beside the other tenants whose requests wait.
        sink_id: The ingress replica whose token stream carries the output.
        abort_key: Requests of one key are aborted together; empty: by their own ids alone.
        traceparent: W3C's, of the span that the request belongs to; empty: it is not traced.
    """

    request_id: str
    prompt_token_ids: tuple[int, ...]
    params: SamplingParams = field(default_factory=SamplingParams)
    emitted_token_ids: tuple[int, ...] = ()
    cache_salt: str = ""
    share: float = 1.0
    sink_id: str = ""
    abort_key: str = ""
    traceparent: str = ""


class TokenLogprobs(NamedTuple):
    """Log probability of one token and of the most likely ones in its place, most likely first."""

    logprob: float
    top: tuple[tuple[int, float], ...] = ()


class TokenOutput(NamedTuple):
    """What one step made for one request.

    A tuple: one crosses processes for each token, and a dataclass takes several times as long to pickle.

    Attributes:
        request_id: Of the `GenerationRequest`.
        position: Index of `token_ids[0]` in the request's output, counting emitted tokens.
        token_ids: New tokens, possibly none when the request only ends.
        logprobs: One entry a token when they were asked for, else empty.
        prompt_logprobs: In the output at position 0 with the first token, or with the end where none is
            drawn, if they were asked for: one entry a token of the prompt, None for the first, which nothing
            comes before.
        num_cached_tokens: Prompt tokens taken from the prefix cache.
        finish_reason: Set on the last output of a request.
        error: Set when `finish_reason` is `ERROR`.
    """

    request_id: str
    position: int
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprobs, ...] = ()
    prompt_logprobs: tuple[TokenLogprobs | None, ...] = ()
    num_cached_tokens: int = 0
    finish_reason: FinishReason | None = None
    error: GptossError | None = None

    def split(self) -> tuple[TokenOutput, ...]:
        """Return outputs of one token each that say the same, the end with the last.

        So what reads them stops at the same token, however many a step has made.
        """
        num_tokens = len(self.token_ids)
        if num_tokens < 2:
            return (self,)
        return tuple(
            self._replace(
                position=self.position + number,
                token_ids=self.token_ids[number : number + 1],
                logprobs=self.logprobs[number : number + 1],
                prompt_logprobs=() if number else self.prompt_logprobs,
                finish_reason=self.finish_reason if number == num_tokens - 1 else None,
                error=self.error if number == num_tokens - 1 else None,
            )
            for number in range(num_tokens)
        )
