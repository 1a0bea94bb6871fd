"""Fields by which a request demands a form of its output: response_format, tool_choice, vLLM's extras."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator
from typing_extensions import TypedDict

from gptoss_ray.serving.request_fields import MAX_ITEMS, RequestFields, at_most, wrong

MAX_CHOICES = 1500
"""Texts of which one is to be the output; the time of its first step grows with the square of that."""

Choices = Annotated[list[str], Field(fail_fast=True, min_length=1), at_most(MAX_CHOICES)]
ToolMode = Literal["none", "auto", "required"]


class JsonSchemaFormat(RequestFields):
    """A JSON schema that the answer satisfies; `strict` refuses keywords that cannot be enforced."""

    name: str = Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")
    description: str | None = None
    schema_: dict[str, Any] | None = Field(None, alias="schema")
    strict: bool | None = None


class ResponseFormat(RequestFields):
    """Form of the final answer."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchemaFormat | None = None

    @model_validator(mode="after")
    def _has_its_schema(self) -> ResponseFormat:
        if self.type == "json_schema" and self.json_schema is None:
            raise wrong("has type 'json_schema' but no json_schema; send its name and schema")
        return self


class StructuredOutputs(RequestFields):
    """vLLM's form of the same; at most one of the fields."""

    json_: dict[str, Any] | str | None = Field(None, alias="json")
    regex: str | None = None
    choice: Choices | None = None
    grammar: str | None = None
    json_object: bool | None = None


class StructuredFields(RequestFields):
    """What chat and completions share; at most one of these fields demands something."""

    response_format: ResponseFormat | None = None
    structured_outputs: StructuredOutputs | None = None
    guided_json: dict[str, Any] | str | None = None
    guided_regex: str | None = None
    guided_choice: Choices | None = None
    guided_grammar: str | None = None

    @property
    def demands_content(self) -> bool:
        """Whether a field may demand a form of the content."""
        return any(getattr(self, name) is not None for name in StructuredFields.model_fields)


@dataclass(frozen=True, slots=True)
class ToolChoice:
    """Whether the model may, must or must not call, and which functions; None: any of them."""

    mode: ToolMode
    names: tuple[str, ...] | None = None


class FunctionName(TypedDict):
    """Which function."""

    name: str


class NamedTool(TypedDict):
    """A function to be called."""

    type: Literal["function"]
    function: FunctionName


class AllowedTools(TypedDict):
    """Whether the model must call, and what it may."""

    mode: Literal["auto", "required"]
    tools: list[NamedTool]


class AllowedToolsChoice(TypedDict):
    """The functions that may be called now, of all that the model is shown."""

    type: Literal["allowed_tools"]
    allowed_tools: AllowedTools


def _tool_choice(value: Any) -> ToolChoice | None:
    """Read any of OpenAI's three forms."""
    if value is None or isinstance(value, ToolChoice):
        return value
    if value in ("none", "auto", "required"):
        return ToolChoice(value)
    kind = value.get("type") if isinstance(value, dict) else None
    if kind == "function":
        return ToolChoice("required", (_name(value),))
    allowed = value.get("allowed_tools") if kind == "allowed_tools" else None
    if isinstance(allowed, dict) and allowed.get("mode") in ("auto", "required"):
        tools = allowed.get("tools")
        if isinstance(tools, list) and 0 < len(tools) <= MAX_ITEMS:
            return ToolChoice(allowed["mode"], tuple(_name(tool) for tool in tools))
        raise wrong(f"allowed_tools must name 1 to {MAX_ITEMS} tools; for none use 'none'")
    raise wrong(
        "must be 'none', 'auto', 'required', a function's "
        '{"type": "function", "function": {"name"}}, or '
        '{"type": "allowed_tools", "allowed_tools": {"mode": "auto" or "required", "tools": [functions]}}'
    )


def _name(tool: Any) -> str:
    """Return the name in `{"type": "function", "function": {"name": …}}`."""
    function = tool.get("function") if isinstance(tool, dict) and tool.get("type") == "function" else None
    name = function.get("name") if isinstance(function, dict) else None
    if not isinstance(name, str):
        raise wrong('must name functions as {"type": "function", "function": {"name": "f"}}')
    return name


ToolChoiceField = Annotated[
    ToolChoice | None,
    BeforeValidator(_tool_choice, json_schema_input_type=ToolMode | NamedTool | AllowedToolsChoice | None),
]
