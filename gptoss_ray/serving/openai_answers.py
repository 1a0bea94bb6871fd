"""The JSON of answers, as types: mypy holds the encoders to them, and `/openapi.json` is made of them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import WithJsonSchema
from typing_extensions import NotRequired, TypedDict

ChatEnd = Annotated[str, WithJsonSchema({"enum": ["stop", "length", "tool_calls"]})]
"""Why a chat's choice ended."""
CompletionEnd = Annotated[str, WithJsonSchema({"enum": ["stop", "length"]})]
"""Why a completion's choice ended."""


class PromptTokensDetails(TypedDict):
    """Of the prompt's tokens."""

    cached_tokens: int


class CompletionTokensDetails(TypedDict):
    """Of the output's tokens."""

    reasoning_tokens: int


class UsageObject(TypedDict):
    """Tokens that a request used, over all its prompts and choices."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails
    completion_tokens_details: CompletionTokensDetails


class CalledFunction(TypedDict):
    """Name and arguments, as JSON text that the model wrote."""

    name: str
    arguments: str


class ToolCallObject(TypedDict):
    """A call that the client is to make."""

    id: str
    type: Literal["function"]
    function: CalledFunction


class CalledFunctionPiece(TypedDict):
    """The name comes whole, with the first piece; arguments are to be appended."""

    name: NotRequired[str]
    arguments: str


class ToolCallPiece(TypedDict):
    """A piece of a call; the first one has all keys."""

    index: int
    id: NotRequired[str]
    type: NotRequired[Literal["function"]]
    function: CalledFunctionPiece


class TopLogprob(TypedDict):
    """A token; one that cuts a character has `bytes:\\x..` for its text."""

    token: str
    logprob: float | None
    bytes: list[int]


class ContentLogprob(TopLogprob):
    """A token of the content, and the most likely ones in its place."""

    top_logprobs: list[TopLogprob]


class ChatLogprobs(TypedDict):
    """One entry for each token of the content."""

    content: list[ContentLogprob]
    refusal: None


class AssistantMessage(TypedDict):
    """What the model said; `reasoning` has two names, because clients read either."""

    role: Literal["assistant"]
    content: str | None
    refusal: None
    reasoning: str | None
    reasoning_content: str | None
    tool_calls: NotRequired[list[ToolCallObject]]


class ChatChoiceObject(TypedDict):
    """One answer."""

    index: int
    message: AssistantMessage
    logprobs: ChatLogprobs | None
    finish_reason: ChatEnd


class ChatCompletion(TypedDict):
    """A whole answer to a chat."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    system_fingerprint: None
    choices: list[ChatChoiceObject]
    usage: UsageObject


class ResumptionObject(TypedDict):
    """What fixes an answer; sent back with what the client has of each choice, it resumes a broken stream."""

    id: str
    created: int
    seed: int
    recalled_reasoning: dict[str, str]


class MessageDelta(TypedDict):
    """What is new in a message; all texts are to be appended."""

    role: NotRequired[Literal["assistant"]]
    content: NotRequired[str]
    reasoning: NotRequired[str]
    reasoning_content: NotRequired[str]
    tool_calls: NotRequired[list[ToolCallPiece]]


class ChunkChoice(TypedDict):
    """What is new in one choice."""

    index: int
    delta: MessageDelta
    logprobs: ChatLogprobs | None
    finish_reason: ChatEnd | None
    token_ids: NotRequired[list[int]]


class ChatCompletionChunk(TypedDict):
    """An event of a streamed chat."""

    id: str
    object: Literal["chat.completion.chunk"]
    created: int
    model: str
    system_fingerprint: None
    choices: list[ChunkChoice]
    usage: NotRequired[UsageObject | None]
    resumption: NotRequired[ResumptionObject]


class CompletionLogprobs(TypedDict):
    """Parallel lists, an entry a token; a prompt's first token has null for its log probabilities."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]


class TextChoice(TypedDict):
    """One continuation, or in a stream what is new in it."""

    index: int
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: CompletionEnd | None
    token_ids: NotRequired[list[int]]


class TextCompletion(TypedDict):
    """A whole answer to a prompt, or an event of a streamed one."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    system_fingerprint: None
    choices: list[TextChoice]
    usage: NotRequired[UsageObject | None]
    resumption: NotRequired[ResumptionObject]


class ModelObject(TypedDict):
    """A served model, under its name or an alias; `root` is its name."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: Literal["gptoss_ray"]
    root: str
    parent: None
    max_model_len: int


class ModelList(TypedDict):
    """All served models."""

    object: Literal["list"]
    data: list[ModelObject]


class AbortedRequest(TypedDict):
    """How many sequences were ended of the requests of an id."""

    id: str
    object: Literal["request"]
    num_aborted: int


class Health(TypedDict):
    """That the server, or a model behind it, answers."""

    status: Literal["live", "ready"]


class Version(TypedDict):
    """Of the server."""

    version: str


class ErrorDetails(TypedDict):
    """What went wrong, OpenAI's kind of it, the field at fault and a name for programs."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorObject(TypedDict):
    """Every answer that is no success."""

    error: ErrorDetails
