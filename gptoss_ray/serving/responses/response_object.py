"""The response object of a request: how it begins, and how its end is told."""

from __future__ import annotations

from typing import Any

from gptoss_ray.generation import SamplingParams
from gptoss_ray.serving.answer import Usage
from gptoss_ray.serving.responses.objects import ResponseObject, ResponseUsage
from gptoss_ray.serving.responses.request import ResponseRequest
from gptoss_ray.serving.responses.tools import FunctionTool, NamespaceTool, ToolFields


def new_response(
    request: ResponseRequest,
    response_id: str,
    model: str,
    sampling: SamplingParams,
    *,
    created: int,
    store: bool,
) -> ResponseObject:
    """Return a response on which nothing has been done.

    Args:
        request: Most of its fields are told back.
        response_id: Its id.
        model: Name of the served model.
        sampling: The model's defaults.
        created: Unix time in seconds.
        store: Whether it will be kept.
    """
    is_background = bool(request.background)
    return ResponseObject(
        id=response_id,
        object="response",
        created_at=created,
        completed_at=None,
        status="queued" if is_background else "in_progress",
        background=is_background,
        error=None,
        incomplete_details=None,
        instructions=request.instructions,
        max_output_tokens=request.max_output_tokens,
        max_tool_calls=request.max_tool_calls,
        metadata=request.metadata or {},
        model=model,
        output=[],
        parallel_tool_calls=request.parallel_tool_calls is not False,
        previous_response_id=request.previous_response_id,
        prompt_cache_key=request.prompt_cache_key,
        reasoning=_reasoning(request),
        safety_identifier=request.safety_identifier,
        service_tier="default",
        store=store,
        temperature=sampling.temperature if request.temperature is None else request.temperature,
        text=_text(request),
        tool_choice=request.tool_choice.given if request.tool_choice else "auto",
        tools=[_tool(tool) for tool in request.tools or ()],
        top_logprobs=request.top_logprobs or 0,
        top_p=sampling.top_p if request.top_p is None else request.top_p,
        truncation=request.truncation or "disabled",
        usage=None,
        user=request.user,
    )


def usage_of(usage: Usage) -> ResponseUsage:
    """Return the tokens that a response used."""
    return ResponseUsage(
        input_tokens=usage.prompt_tokens,
        input_tokens_details={"cached_tokens": usage.cached_tokens, "cache_write_tokens": 0},
        output_tokens=usage.completion_tokens,
        output_tokens_details={"reasoning_tokens": usage.reasoning_tokens},
        total_tokens=usage.total_tokens,
    )


def _reasoning(request: ResponseRequest) -> dict[str, Any]:
    given = request.reasoning
    return {"effort": (given and given.effort) or "medium", "summary": given and given.summary}


def _text(request: ResponseRequest) -> dict[str, Any]:
    given = request.text
    wanted = given.format if given else None
    shown = wanted.model_dump(by_alias=True, exclude_none=True) if wanted else {"type": "text"}
    return {"format": shown, "verbosity": (given and given.verbosity) or "medium"}


def _tool(tool: ToolFields) -> dict[str, Any]:
    """Return a tool as it was sent; of a function all keys are there, because clients' types demand them."""
    sent = tool.model_dump(mode="json", exclude_unset=True)
    if isinstance(tool, FunctionTool):
        return {"description": None, "parameters": None, "strict": None, **sent}
    if isinstance(tool, NamespaceTool):
        sent["tools"] = [_tool(member) for member in tool.tools]
    return sent
