"""A chat request as the tokens that the model reads."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence

from gptoss_ray.errors import InvalidRequestError
from gptoss_ray.harmony.encoding import HarmonyEncoding
from gptoss_ray.harmony.prompt import Message, PromptOptions, Tool, ToolCall, render_chat
from gptoss_ray.serving.openai_types import ChatCompletionRequest, ChatFields, ChatMessage, ToolDefinition
from gptoss_ray.serving.structured_request import described_format

Recall = Callable[[Iterable[str]], str | None]
"""Call ids to what the model thought before these calls, None where that is not known."""


def check_size(param: str, num_items: int, limit: int) -> None:
    """Raise InvalidRequestError where a field has more items than allowed."""
    if num_items > limit:
        raise InvalidRequestError(f"{param} has {num_items} items; send at most {limit}.", param=param)


def conversation(request: ChatCompletionRequest, recall: Recall | None = None) -> list[Message]:
    """Return the messages, with what the model thought before its calls where the client left it out."""
    return [_message(message, recall) for message in request.messages]


def render_request(
    request: ChatFields,
    messages: Sequence[Message],
    encoding: HarmonyEncoding,
    *,
    created: int,
    opens_answer: bool = True,
) -> list[int]:
    """Return the prompt's tokens; `created`, Unix time in seconds, tells the day. Run it in a thread.

    Raises:
        InvalidRequestError: A message or tool is at fault; `param` names the field.
    """
    options = PromptOptions(
        current_date=time.strftime("%Y-%m-%d", time.gmtime(created)),
        reasoning_effort=request.effort,
        tool_choice="none" if request.tool_choice and request.tool_choice.mode == "none" else "auto",
        opens_answer=opens_answer,
        response_format=described_format(request),
    )
    tools = [_tool(tool) for tool in request.tools or ()]
    return render_chat(encoding, messages, tools, options)


def _message(message: ChatMessage, recall: Recall | None) -> Message:
    calls = tuple(
        ToolCall(call.id, call.function.name, call.function.arguments) for call in message.tool_calls or ()
    )
    reasoning = message.reasoning or message.reasoning_content
    if calls and not reasoning and recall is not None:
        reasoning = recall(call.id for call in calls)
    if (older := message.function_call) is not None:
        calls += (ToolCall(f"function_call-{older.name}", older.name, older.arguments),)
    return Message(
        role="tool" if message.role == "function" else message.role,
        content=message.content,
        reasoning=reasoning,
        tool_calls=calls,
        tool_call_id=message.tool_call_id,
        name=(message.name or "") if message.role == "function" else None,
    )


def _tool(tool: ToolDefinition) -> Tool:
    function = tool.function
    return Tool(function.name, function.description or "", function.parameters)
