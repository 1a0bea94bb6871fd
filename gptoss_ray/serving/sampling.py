"""From a request's fields to `SamplingParams`: defaults, the fixed seed, and what the context leaves."""

from __future__ import annotations

import secrets
from dataclasses import replace

from gptoss_ray.config import LimitsConfig
from gptoss_ray.errors import ContextLengthExceededError, InvalidRequestError
from gptoss_ray.generation import GenerationRequest, SamplingParams
from gptoss_ray.serving.models import ServedModel
from gptoss_ray.serving.openai_types import SamplingFields

MAX_STOP_STRING_LENGTH = 256
_PLAIN_FIELDS = (
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "presence_penalty",
    "frequency_penalty",
    "repetition_penalty",
    "min_tokens",
)


def check_counts(request: SamplingFields, limits: LimitsConfig) -> None:
    """Raise InvalidRequestError where a request asks for more choices or stop strings than allowed."""
    param = "n" if request.num_choices == request.num_drawn else "best_of"
    if request.num_drawn > limits.max_choices:
        raise InvalidRequestError(
            f"{param} is {request.num_drawn}; it must be at most {limits.max_choices}.", param=param
        )
    if len(request.stop) > limits.max_stop_strings:
        raise InvalidRequestError(
            f"stop has {len(request.stop)} strings; send at most {limits.max_stop_strings}.", param="stop"
        )
    if any(len(text) > MAX_STOP_STRING_LENGTH for text in request.stop):
        raise InvalidRequestError(
            f"stop has a string of more than {MAX_STOP_STRING_LENGTH} characters; shorten it.", param="stop"
        )


def encode_prompt(text: str, model: ServedModel, param: str) -> list[int]:
    """Return a raw prompt's tokens; harmony's markers become control tokens, as users mean them."""
    try:
        return model.encoding.encode_with_special(text)
    except ValueError as error:
        message = f"{param} cannot be split into tokens, such as a million spaces in a row; shorten it."
        raise InvalidRequestError(message, param=param) from error


def check_prompt(token_ids: list[int], model: ServedModel, param: str) -> None:
    """Raise InvalidRequestError unless the prompt has tokens, all known, and leaves room for an output."""
    if not token_ids:
        raise InvalidRequestError(f"{param} is empty; send at least one token.", param=param)
    if len(token_ids) >= model.max_context:
        raise ContextLengthExceededError(
            # The words that litellm and others know this error by.
            f"This model's maximum context length is {model.max_context} tokens, of which at least one is "
            f"for the output; {param} has {len(token_ids)}. Shorten it.",
            param=param,
        )
    check_ids(token_ids, model, param)


def sampling_params(
    request: SamplingFields,
    model: ServedModel,
    *,
    seed: int | None = None,
    num_prompt_tokens: int,
    max_tokens: int | None,
    logprobs: int | None,
    prompt_logprobs: int | None = None,
    grammar: str | None = None,
) -> SamplingParams:
    """Return how a request's tokens are drawn, with its defaults and limits resolved.

    `max_tokens` is cut to what the context leaves; None takes all of that. `seed` is by default that of
    `fixed_seed`. A grammar says where the output ends, so `ignore_eos` means nothing beside one.

    Raises:
        InvalidRequestError: A field is out of range; `param` names it.
    """
    given = {name: value for name in _PLAIN_FIELDS if (value := getattr(request, name)) is not None}
    room = model.max_context - num_prompt_tokens
    own_stop_ids = () if request.ignore_eos and grammar is None else model.encoding.stop_token_ids
    stop_ids = request.stop_token_ids or []
    check_ids(stop_ids, model, "stop_token_ids")
    return replace(
        model.default_sampling,
        **given,
        seed=fixed_seed(request) if seed is None else seed,
        max_tokens=room if max_tokens is None else min(max_tokens, room),
        stop_token_ids=tuple(dict.fromkeys((*own_stop_ids, *stop_ids))),
        logit_bias=_logit_bias(request.logit_bias or {}, model),
        logprobs=logprobs,
        prompt_logprobs=prompt_logprobs,
        grammar=grammar,
    )


def fixed_seed(request: SamplingFields) -> int:
    """Return the seed of the answer that goes on, or the client's, or a new one.

    There always is one, because a request must be repeatable from its own fields (law 1).
    """
    if request.resumption is not None:
        return request.resumption.seed
    return secrets.randbits(63) if request.seed is None else request.seed


def choice_requests(
    answer_id: str,
    prompt: list[int],
    params: SamplingParams,
    num_choices: int,
    tenant: str,
    abort_key: str = "",
) -> list[GenerationRequest]:
    """Return one request for tokens per choice; they share prompt and seed and differ in choice index."""
    return [
        GenerationRequest(
            request_id=f"{answer_id}-{index}",
            prompt_token_ids=tuple(prompt),
            params=replace(params, choice_index=index),
            cache_salt=tenant,
            abort_key=abort_key,
        )
        for index in range(num_choices)
    ]


def _logit_bias(bias: dict[str, float], model: ServedModel) -> tuple[tuple[int, float], ...]:
    """Return the pairs in order of id; raise InvalidRequestError for a key that is no token id."""
    if not all(key.isascii() and key.isdigit() and len(key) < 10 for key in bias):
        raise InvalidRequestError("logit_bias has a key that is no token id.", param="logit_bias")
    by_id = {int(key): value for key, value in bias.items()}
    check_ids(list(by_id), model, "logit_bias")
    return tuple(sorted(by_id.items()))


def check_ids(token_ids: list[int], model: ServedModel, param: str) -> None:
    """Raise InvalidRequestError where an id is none of the model's."""
    for token_id in token_ids:
        if not 0 <= token_id < model.vocab_size:
            raise InvalidRequestError(
                f"{param} has token id {token_id}; {model.name} knows ids from 0 to {model.vocab_size - 1}.",
                param=param,
            )
