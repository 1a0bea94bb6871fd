"""POST /v1/responses: the fields of a request. A gRPC message is turned into the same."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from gptoss_ray.serving.openai_types import DrawFields, RequestEffort
from gptoss_ray.serving.request_fields import Items, RequestFields, at_most, wrong
from gptoss_ray.serving.responses.input_items import InputField
from gptoss_ray.serving.responses.tool_choice import ResponseToolChoiceField
from gptoss_ray.serving.responses.tools import AnyTool

MAX_METADATA_PAIRS = 16
MAX_METADATA_KEY_LENGTH = 64
MAX_METADATA_VALUE_LENGTH = 512
LOGPROBS = "message.output_text.logprobs"
"""What `include` names where log probabilities are wanted."""

_REFUSED: dict[str, tuple[Any, ...]] = {
    **DrawFields.refused,
    "conversation": (),
    "guided_choice": (),
    "guided_grammar": (),
    "guided_json": (),
    "guided_regex": (),
    "max_completion_tokens": (),
    "max_tokens": (),
    "messages": (),
    "n": (1,),
    "prompt": (),
    "response_format": (),
    "structured_outputs": (),
}


class TextFormat(RequestFields):
    """Form of the answer; a JSON schema stands beside its name."""

    type: Literal["text", "json_object", "json_schema"]
    name: str | None = Field(None, pattern=r"^[A-Za-z0-9_-]{1,64}$")
    description: str | None = None
    schema_: dict[str, Any] | None = Field(None, alias="schema")
    strict: bool | None = None

    @model_validator(mode="after")
    def _has_its_schema(self) -> TextFormat:
        if self.type == "json_schema" and (self.name is None or self.schema_ is None):
            raise wrong("has type 'json_schema'; send its name and schema, too")
        return self


class TextOptions(RequestFields):
    """How the answer is written; `verbosity` is told back and changes nothing."""

    format: TextFormat | None = None
    verbosity: Literal["low", "medium", "high"] | None = None


class ReasoningOptions(RequestFields):
    """How much to think; a summary may be asked for, and none is made."""

    effort: RequestEffort | None = None
    summary: str | None = None
    generate_summary: str | None = None


class ResponseRequest(DrawFields):
    """A request for a response; what is left out of it is decided by the served model."""

    refused: ClassVar[dict[str, tuple[Any, ...]]] = _REFUSED

    input: InputField
    instructions: str | None = None
    previous_response_id: str | None = None
    tools: Items[AnyTool] | None = None
    tool_choice: ResponseToolChoiceField = None
    parallel_tool_calls: bool | None = None
    max_tool_calls: int | None = Field(None, ge=1)
    reasoning: ReasoningOptions | None = None
    text: TextOptions | None = None
    max_output_tokens: int | None = Field(None, ge=1)
    top_logprobs: int | None = Field(None, ge=0, le=20)
    include: Items[str] | None = None
    truncation: Literal["auto", "disabled"] | None = None
    store: bool | None = None
    background: bool | None = None
    metadata: Annotated[dict[str, str] | None, at_most(MAX_METADATA_PAIRS)] = None
    prompt_cache_key: str | None = None
    safety_identifier: str | None = None
    user: str | None = None

    @field_validator("metadata")
    @classmethod
    def _metadata_is_short(cls, metadata: dict[str, str] | None) -> dict[str, str] | None:
        for key, value in (metadata or {}).items():
            if len(key) > MAX_METADATA_KEY_LENGTH or len(value) > MAX_METADATA_VALUE_LENGTH:
                raise wrong(
                    f"has a key of more than {MAX_METADATA_KEY_LENGTH} characters or a value of more than "
                    f"{MAX_METADATA_VALUE_LENGTH}; shorten it"
                )
        return metadata

    @property
    def is_stored(self) -> bool:
        """Whether the response is to be kept; it is, where nothing is said."""
        return self.store is not False

    @property
    def wants_logprobs(self) -> bool:
        """Whether the answer's log probabilities are to be told."""
        return LOGPROBS in (self.include or ())
