"""A script that acts as a model does which was offered a tool: it calls it once, then answers."""

from __future__ import annotations

from collections.abc import Sequence

from gptoss_ray.generation import GenerationRequest
from tests.support.ingresses import ANSWER, CALL, encoding, tokens


def prompt_text(request: GenerationRequest) -> str:
    """Return what the model reads, markup and all."""
    return encoding().decode_bytes(request.prompt_token_ids).decode()


def call_once(request: GenerationRequest) -> Sequence[tuple[int, ...]]:
    """Call the offered tool; answer where none is offered or its result is there."""
    prompt = prompt_text(request)
    is_offered = "namespace functions" in prompt
    has_result = "<|start|>functions.weather to=assistant" in prompt
    return tokens(CALL if is_offered and not has_result else ANSWER)
