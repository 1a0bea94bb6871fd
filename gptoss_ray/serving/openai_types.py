"""Requests of OpenAI's chat and completions APIs: types, refusals, and errors that name the field.

Both protocols pass through these models: a gRPC message is turned into the same fields. Ranges of the
sampling fields are checked by `SamplingParams`, once for all callers. Unknown keys are ignored, because
clients send many; keys that would change the answer and are not supported are refused (`_REFUSED`).
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, TypeVar

from jiter import from_json
from pydantic import BaseModel, BeforeValidator, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails
from typing_extensions import TypedDict

from gptoss_ray.errors import ContextLengthExceededError, InvalidRequestError
from gptoss_ray.generation import MAX_LOGIT_BIAS_ENTRIES
from gptoss_ray.serving.limits import check_json_size
from gptoss_ray.serving.request_fields import (
    MAX_ITEMS,
    MAX_PROMPT_IDS,
    Items,
    RequestFields,
    at_most,
    wrong,
)
from gptoss_ray.serving.resumption_types import Resumption
from gptoss_ray.serving.structured_types import StructuredFields, ToolChoiceField

MAX_PROMPTS = 128
Effort = Literal["low", "medium", "high"]
RequestEffort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]
# The model knows three efforts; OpenAI's other names go to the nearest.
_EFFORTS: dict[str, Effort] = {
    "none": "low",
    "minimal": "low",
    "low": "low",
    "medium": "medium",
    "high": "high",
    "xhigh": "high",
    "max": "high",
}
_TEXT_OF_PART = {"text": "text", "input_text": "text", "output_text": "text", "refusal": "refusal"}

# Field -> the values that ask for nothing; any other value is refused.
_REFUSED: dict[str, tuple[Any, ...]] = {
    "allowed_token_ids": (),
    "bad_words": ([],),
    "prompt_logprobs": (),
    "truncate_prompt_tokens": (),
    "use_beam_search": (False,),
}
_REFUSED_IN_CHAT: dict[str, tuple[Any, ...]] = {
    **_REFUSED,
    "add_generation_prompt": (True,),
    "audio": (),
    "best_of": (1,),
    "chat_template": (),
    "chat_template_kwargs": ({},),
    "continue_final_message": (False,),
    "documents": ([],),
    "echo": (False,),
    "function_call": ("none",),
    "functions": ([],),
    "include_reasoning": (True,),
    "modalities": (["text"],),
    "skip_special_tokens": (True,),
    "web_search_options": (),
}
_REFUSED_IN_COMPLETIONS: dict[str, tuple[Any, ...]] = {
    **_REFUSED,
    "suffix": ("",),
}


def _list_of_strings(value: Any) -> Any:
    """Turn null, a string or a list of strings into a list without empty strings."""
    strings = [value] if isinstance(value, str) else value or []
    if not isinstance(strings, list) or not all(isinstance(text, str) for text in strings):
        raise wrong("must be a string or a list of strings")
    return [text for text in strings if text]


def join_parts(value: Any) -> Any:
    """Turn a list of text parts into their text; the validator of a content."""
    if not isinstance(value, list):
        return value
    if len(value) > MAX_ITEMS:
        raise wrong(f"has {len(value)} parts; send at most {MAX_ITEMS}")
    return "".join(_text_of_part(part, index) for index, part in enumerate(value))


def _text_of_part(part: Any, index: int) -> str:
    kind = part.get("type") if isinstance(part, dict) else None
    key = _TEXT_OF_PART.get(kind) if isinstance(kind, str) else None
    text = part.get(key) if key else None
    if not isinstance(text, str):
        raise wrong(
            f"part {index} has type {kind!r}; only parts of type 'text' that hold a text are supported"
        )
    return text


def _prompts(value: Any) -> Any:
    """Turn OpenAI's four forms of a prompt into a list of strings and lists of ids."""
    if isinstance(value, str) or (isinstance(value, list) and value and _is_id(value[0])):
        value = [value]
    if isinstance(value, list) and len(value) > MAX_PROMPTS:
        raise wrong(f"has {len(value)} prompts; send at most {MAX_PROMPTS}")
    if (
        isinstance(value, list)
        and sum(len(item) for item in value if isinstance(item, list)) > MAX_PROMPT_IDS
    ):
        raise ContextLengthExceededError(
            f"prompt has more than {MAX_PROMPT_IDS} token ids; send fewer.", param="prompt"
        )
    if not isinstance(value, list) or not value or not all(_is_prompt(prompt) for prompt in value):
        raise wrong("must be a string, a list of strings, a list of token ids, or a list of such lists")
    return value


def _is_prompt(value: Any) -> bool:
    return isinstance(value, str) or (isinstance(value, list) and all(_is_id(item) for item in value))


def _is_id(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


class TextPart(TypedDict):
    """A part of a content that is text."""

    type: Literal["text", "input_text", "output_text"]
    text: str


class RefusalPart(TypedDict):
    """A part of an assistant's content with which it refused."""

    type: Literal["refusal"]
    refusal: str


class StreamOptions(RequestFields):
    """Options of a streamed answer."""

    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None


class DrawFields(RequestFields):
    """How tokens are drawn, in every API; None is the served model's default."""

    refused: ClassVar[dict[str, tuple[Any, ...]]] = _REFUSED

    model: str
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    repetition_penalty: float | None = None
    logit_bias: Annotated[dict[str, float] | None, at_most(MAX_LOGIT_BIAS_ENTRIES)] = None
    seed: int | None = None
    min_tokens: int | None = None
    stop: Annotated[
        list[str],
        BeforeValidator(_list_of_strings, json_schema_input_type=str | list[str] | None),
        at_most(MAX_ITEMS),
    ] = Field(default_factory=list)
    stop_token_ids: Items[int] | None = None
    include_stop_str_in_output: bool | None = None
    ignore_eos: bool | None = None

    @model_validator(mode="before")
    @classmethod
    def _refuse_unsupported(cls, values: Any) -> Any:
        if isinstance(values, dict):
            for name, harmless in cls.refused.items():
                value = values.get(name)
                if value is not None and value not in harmless:
                    raise InvalidRequestError(f"{name} is not supported; leave it out.", param=name)
        return values


class SamplingFields(DrawFields, StructuredFields):
    """What chat and completions share."""

    max_tokens: int | None = Field(None, ge=1)
    n: int | None = Field(None, ge=1)
    resumable: bool | None = None
    resumption: Resumption | None = None

    @property
    def num_choices(self) -> int:
        """How many answers to draw."""
        return self.n or 1

    @property
    def num_drawn(self) -> int:
        """How many answers to draw to a prompt, of which `num_choices` are shown."""
        return self.num_choices

    @property
    def tells_tokens(self) -> bool:
        """Whether a stream's pieces carry what it takes to resume it."""
        return bool(self.stream and (self.resumable or self.resumption))

    @property
    def wants_usage_chunk(self) -> bool:
        """Whether a stream ends with a chunk of usage."""
        return bool(self.stream_options and self.stream_options.include_usage)

    @property
    def wants_usage_in_every_chunk(self) -> bool:
        """Whether each chunk of a stream tells the usage so far."""
        return self.wants_usage_chunk and bool(
            self.stream_options and self.stream_options.continuous_usage_stats
        )


class FunctionCall(RequestFields):
    """Name and arguments (JSON text) of a call in an assistant's message."""

    name: str
    arguments: str


class ToolCallPart(RequestFields):
    """A call in an assistant's message."""

    id: str
    type: Literal["function"] = "function"
    function: FunctionCall


class ChatMessage(RequestFields):
    """One message; content may be a string, null, absent, or a list of text parts.

    `function_call` and the role "function", which answers it by `name`, are OpenAI's older form of calls.
    """

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: Annotated[
        str | None,
        BeforeValidator(join_parts, json_schema_input_type=str | list[TextPart | RefusalPart] | None),
    ] = None
    reasoning: str | None = None
    reasoning_content: str | None = None
    tool_calls: Items[ToolCallPart] | None = None
    tool_call_id: str | None = None
    function_call: FunctionCall | None = None
    name: str | None = None


class FunctionDefinition(RequestFields):
    """A function that the model may call."""

    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class ToolDefinition(RequestFields):
    """A tool that the model may call."""

    type: Literal["function"]
    function: FunctionDefinition


class Reasoning(RequestFields):
    """The Responses API's way to say how much to think."""

    effort: RequestEffort | None = None


class ChatFields(SamplingFields):
    """All of a chat but what was said in it."""

    max_completion_tokens: int | None = Field(None, ge=1)
    reasoning_effort: RequestEffort | None = None
    reasoning: Reasoning | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=20)
    tools: Items[ToolDefinition] | None = None
    tool_choice: ToolChoiceField = None

    @property
    def effort(self) -> Effort:
        """How much the model is to think."""
        effort = self.reasoning_effort or (self.reasoning and self.reasoning.effort)
        return _EFFORTS[effort or "medium"]


class ChatCompletionRequest(ChatFields):
    """POST /v1/chat/completions."""

    refused: ClassVar[dict[str, tuple[Any, ...]]] = _REFUSED_IN_CHAT

    messages: Items[ChatMessage] = Field(min_length=1)


class CompletionRequest(SamplingFields):
    """POST /v1/completions."""

    refused: ClassVar[dict[str, tuple[Any, ...]]] = _REFUSED_IN_COMPLETIONS

    prompt: Annotated[
        list[str | list[int]],
        BeforeValidator(_prompts, json_schema_input_type=str | list[str] | list[int] | list[list[int]]),
    ]
    max_tokens: int | None = Field(None, ge=0)
    logprobs: int | None = Field(None, ge=0, le=5)
    echo: bool | None = None
    best_of: int | None = Field(None, ge=1)

    @property
    def num_drawn(self) -> int:
        """How many answers to draw to a prompt, of which `num_choices` are shown."""
        return self.best_of or self.num_choices


RequestT = TypeVar("RequestT", bound=BaseModel)


def parse_json(kind: type[RequestT], body: bytes) -> RequestT:
    """Return the request in a JSON body.

    Raises:
        InvalidRequestError: The JSON is malformed, has a key twice or too many values, or a field is wrong;
            `param` is its path.
    """
    check_json_size(body)
    try:
        # A cache of strings makes those that are all different twice as slow, and others hardly faster.
        fields = from_json(body, cache_mode="none", catch_duplicate_keys=True, allow_inf_nan=False)
    except ValueError as error:
        raise InvalidRequestError(f"The body is not valid JSON: {error}.") from None
    return parse_fields(kind, fields)


def parse_fields(kind: type[RequestT], fields: Any) -> RequestT:
    """Return the request with these fields; raise InvalidRequestError as `parse_json` does."""
    try:
        return kind.model_validate(fields)
    except ValidationError as error:
        raise _named(error) from None


def _named(error: ValidationError) -> InvalidRequestError:
    """Return the first of pydantic's errors with the path of its field.

    Tags of unions, which tell an item's type, begin with @ and are no part of it.
    """
    first: ErrorDetails = error.errors(include_url=False, include_input=False)[0]
    steps = [step for step in first["loc"] if not str(step).startswith("@")]
    path = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in steps).lstrip(".")
    if not path:
        return InvalidRequestError("The body must be a JSON object.")
    return InvalidRequestError(f"{path}: {first['msg']}.", param=path)
