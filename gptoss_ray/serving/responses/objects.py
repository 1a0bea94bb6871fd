"""The Responses API's objects as types: what is told over HTTP, kept in the store, and told over gRPC."""

from __future__ import annotations

from typing import Any, Literal

from typing_extensions import NotRequired, TypedDict

from gptoss_ray.serving.openai_answers import ContentLogprob

ItemStatus = Literal["in_progress", "completed", "incomplete"]
ResponseStatus = Literal["queued", "in_progress", "completed", "incomplete", "failed", "cancelled"]
MessagePhase = Literal["commentary", "final_answer"]


class OutputText(TypedDict):
    """Text of a message that the model wrote."""

    type: Literal["output_text"]
    text: str
    annotations: list[dict[str, Any]]
    logprobs: list[ContentLogprob]


class ReasoningText(TypedDict):
    """What the model thought."""

    type: Literal["reasoning_text"]
    text: str


class SummaryText(TypedDict):
    """A summary of what a model thought; this server makes none."""

    type: Literal["summary_text"]
    text: str


class ReasoningItem(TypedDict):
    """A run of thought; a part for each of the model's messages in it."""

    id: str
    type: Literal["reasoning"]
    summary: list[SummaryText]
    content: list[ReasoningText]
    encrypted_content: None
    status: ItemStatus


class OutputMessage(TypedDict):
    """A message for the user: the answer, or what is said before a call (phase "commentary")."""

    id: str
    type: Literal["message"]
    role: Literal["assistant"]
    status: ItemStatus
    phase: MessagePhase
    content: list[OutputText]


class FunctionCallItem(TypedDict):
    """A call that the client is to make; `arguments` is JSON text."""

    id: str
    type: Literal["function_call"]
    call_id: str
    name: str
    namespace: NotRequired[str]
    arguments: str
    status: ItemStatus


class CustomToolCallItem(TypedDict):
    """A call of a custom tool, which takes any text."""

    id: str
    type: Literal["custom_tool_call"]
    call_id: str
    name: str
    namespace: NotRequired[str]
    input: str
    status: ItemStatus


OutputItem = ReasoningItem | OutputMessage | FunctionCallItem | CustomToolCallItem
ContentPart = OutputText | ReasoningText

InputItem = dict[str, Any]
"""An item of a request as it is kept and listed: as it was sent, its id and status filled in."""


class InputTokensDetails(TypedDict):
    """Of the tokens of the prompt."""

    cached_tokens: int
    cache_write_tokens: int


class OutputTokensDetails(TypedDict):
    """Of the tokens of the output."""

    reasoning_tokens: int


class ResponseUsage(TypedDict):
    """Tokens that a response used."""

    input_tokens: int
    input_tokens_details: InputTokensDetails
    output_tokens: int
    output_tokens_details: OutputTokensDetails
    total_tokens: int


class ResponseFailure(TypedDict):
    """Why a response failed."""

    code: str
    message: str


class IncompleteDetails(TypedDict):
    """Why a response is incomplete."""

    reason: Literal["max_output_tokens"]


class ResponseObject(TypedDict):
    """A response: its state, what the model made so far, and the fields of its request."""

    id: str
    object: Literal["response"]
    created_at: int
    completed_at: int | None
    status: ResponseStatus
    background: bool
    error: ResponseFailure | None
    incomplete_details: IncompleteDetails | None
    instructions: str | None
    max_output_tokens: int | None
    max_tool_calls: int | None
    metadata: dict[str, str]
    model: str
    output: list[OutputItem]
    parallel_tool_calls: bool
    previous_response_id: str | None
    prompt_cache_key: str | None
    reasoning: dict[str, Any]
    safety_identifier: str | None
    service_tier: Literal["default"]
    store: bool
    temperature: float
    text: dict[str, Any]
    tool_choice: Any
    tools: list[dict[str, Any]]
    top_logprobs: int
    top_p: float
    truncation: Literal["auto", "disabled"]
    usage: ResponseUsage | None
    user: str | None


class InputItemList(TypedDict):
    """A page of a response's input."""

    object: Literal["list"]
    data: list[InputItem]
    first_id: str | None
    last_id: str | None
    has_more: bool


class DeletedResponse(TypedDict):
    """That a response is no longer kept."""

    id: str
    object: Literal["response"]
    deleted: Literal[True]
