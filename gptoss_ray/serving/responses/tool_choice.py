"""`tool_choice` of a request, in the Responses API's forms."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator
from typing_extensions import NotRequired, TypedDict

from gptoss_ray.serving.request_fields import MAX_ITEMS, wrong
from gptoss_ray.serving.structured_types import ToolMode


@dataclass(frozen=True, slots=True)
class ToolRef:
    """A tool by its name, and by its namespace where it has one."""

    name: str
    namespace: str | None = None


@dataclass(frozen=True, slots=True)
class ResponseToolChoice:
    """Whether the model may, must or must not call, and which tools; None: any of them.

    Attributes:
        given: The field as it was sent, which is told back.
    """

    mode: ToolMode
    refs: tuple[ToolRef, ...] | None
    given: Any


class ToolByName(TypedDict):
    """A function or custom tool."""

    type: Literal["function", "custom"]
    name: str
    namespace: NotRequired[str]


class AllowedToolsByName(TypedDict):
    """The tools that may be called now, of all that the model is shown; those of other types are skipped."""

    type: Literal["allowed_tools"]
    mode: Literal["auto", "required"]
    tools: list[dict[str, Any]]


def _tool_choice(value: Any) -> ResponseToolChoice | None:
    if value is None or isinstance(value, ResponseToolChoice):
        return value
    if value in ("none", "auto", "required"):
        return ResponseToolChoice(value, None, value)
    kind = value.get("type") if isinstance(value, dict) else None
    if kind in ("function", "custom"):
        return ResponseToolChoice("required", (_ref(value),), value)
    if kind == "allowed_tools" and value.get("mode") in ("auto", "required"):
        tools = value.get("tools")
        if not isinstance(tools, list) or not 0 < len(tools) <= MAX_ITEMS:
            raise wrong(f"must name 1 to {MAX_ITEMS} tools; for none use 'none'")
        refs = tuple(_ref(tool) for tool in tools if _is_ours(tool))
        return ResponseToolChoice(value["mode"], refs, value)
    raise wrong(
        'must be \'none\', \'auto\', \'required\', {"type": "function" or "custom", "name"}, or '
        '{"type": "allowed_tools", "mode": "auto" or "required", "tools": [such tools]}'
    )


def _is_ours(tool: Any) -> bool:
    return not isinstance(tool, dict) or tool.get("type") in ("function", "custom")


def _ref(tool: Any) -> ToolRef:
    name = tool.get("name") if isinstance(tool, dict) else None
    namespace = tool.get("namespace") if isinstance(tool, dict) else None
    if not isinstance(name, str) or not isinstance(namespace, str | None):
        raise wrong('must name tools as {"type": "function", "name": "f"}, perhaps with a namespace')
    return ToolRef(name, namespace)


ResponseToolChoiceField = Annotated[
    ResponseToolChoice | None,
    BeforeValidator(_tool_choice, json_schema_input_type=ToolMode | ToolByName | AllowedToolsByName | None),
]
