"""What an engine can hold, and the check of a request against it before anything is allocated."""

from __future__ import annotations

from collections.abc import Iterable

from gptoss_ray.errors import ConfigError, ContextLengthExceededError, InvalidRequestError
from gptoss_ray.generation import GenerationRequest


def resolve_context(model_context: int, wanted: int | None, pool_context: int) -> int:
    """Return how many tokens a sequence can have, prompt and output together.

    Args:
        model_context: What the checkpoint was made for.
        wanted: `max_context` of the configuration; None for as many as possible.
        pool_context: Tokens of the longest sequence that fits alone in the KV pool.

    Raises:
        ConfigError: `wanted` is more than the model or the pool can hold, or the pool holds nothing.
    """
    if wanted is not None and wanted > model_context:
        raise ConfigError(
            f"max_context is {wanted}, but the checkpoint's context is {model_context} tokens; "
            f"set at most {model_context}.",
            param="max_context",
        )
    if wanted is not None and wanted > pool_context:
        raise ConfigError(
            f"max_context is {wanted}, but kv_cache_bytes holds one sequence of {pool_context} tokens; "
            f"raise kv_cache_bytes, or set max_context to at most {pool_context}.",
            param="kv_cache_bytes",
        )
    if pool_context < 2:
        raise ConfigError(
            "kv_cache_bytes holds not even one block for the full and one for the window layers; raise it.",
            param="kv_cache_bytes",
        )
    return wanted if wanted is not None else min(model_context, pool_context)


def check_request(request: GenerationRequest, *, vocab_size: int, max_context: int) -> None:
    """Refuse a request that this engine could never serve.

    Raises:
        InvalidRequestError: No prompt, or a token id outside the vocabulary; `param` names the field.
        ContextLengthExceededError: The prompt leaves no room for an output token.
    """
    num_prompt_tokens = len(request.prompt_token_ids)
    if num_prompt_tokens == 0:
        raise InvalidRequestError("The prompt is empty; send at least one token.", param="prompt")
    if num_prompt_tokens >= max_context:
        raise ContextLengthExceededError(
            f"The prompt has {num_prompt_tokens} tokens, but at most {max_context} fit here, prompt and "
            f"output together; shorten the prompt to {max_context - 1} tokens or fewer.",
            param="prompt",
        )
    params = request.params
    _check_token_ids("prompt", request.prompt_token_ids, vocab_size)
    _check_token_ids("emitted_token_ids", request.emitted_token_ids, vocab_size)
    _check_token_ids("stop_token_ids", params.stop_token_ids, vocab_size)
    _check_token_ids("logit_bias", (token_id for token_id, _ in params.logit_bias), vocab_size)


def _check_token_ids(field: str, token_ids: Iterable[int], vocab_size: int) -> None:
    for token_id in token_ids:
        if not 0 <= token_id < vocab_size:
            raise InvalidRequestError(
                f"{field} has token id {token_id}; ids must be at least 0 and below {vocab_size}.",
                param=field,
            )
