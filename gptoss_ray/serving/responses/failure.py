"""Errors as a response tells them."""

from __future__ import annotations

from gptoss_ray.errors import ContextLengthExceededError, GptossError, InvalidRequestError, OverloadedError
from gptoss_ray.serving.responses.objects import ResponseFailure


def failure_of(error: GptossError) -> ResponseFailure:
    """Return what a failed response says; its codes are those that OpenAI's clients know."""
    code = "server_error"
    if isinstance(error, ContextLengthExceededError):
        code = "context_length_exceeded"
    elif isinstance(error, InvalidRequestError):
        code = "invalid_prompt"
    elif isinstance(error, OverloadedError):
        code = "rate_limit_exceeded"
    return ResponseFailure(code=code, message=error.message)
