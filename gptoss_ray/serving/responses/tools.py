"""Tools of a request: functions, custom tools, namespaces of both; tools of other types are skipped."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Discriminator, Tag, WithJsonSchema

from gptoss_ray.serving.request_fields import Items, RequestFields

_OURS = ("function", "custom", "namespace")


class ToolFields(RequestFields):
    """Base: what we do not know is told back as it came."""

    model_config = ConfigDict(strict=True, extra="allow", frozen=True)


class FunctionTool(ToolFields):
    """A function that the model may call; `parameters` is a JSON schema."""

    type: Literal["function"]
    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class CustomFormat(ToolFields):
    """Form of a custom tool's text: any, or by a grammar, which the model is shown."""

    type: Literal["text", "grammar"]
    syntax: Literal["lark", "regex"] | None = None
    definition: str | None = None


class CustomTool(ToolFields):
    """A tool that takes text; the model sees a function with one string."""

    type: Literal["custom"]
    name: str
    description: str | None = None
    format: CustomFormat | None = None


class OtherTool(ToolFields):
    """A tool that only its own server has, such as web_search; the model is not shown it."""

    type: Annotated[str, WithJsonSchema({"type": "string", "not": {"enum": [*_OURS]}})]


def _kind(tool: Any) -> str:
    kind = tool.get("type") if isinstance(tool, dict) else getattr(tool, "type", None)
    return f"@{kind}" if kind in _OURS else "@other"


def _kind_in_namespace(tool: Any) -> str:
    kind = _kind(tool)
    return "@other" if kind == "@namespace" else kind


class NamespaceTool(ToolFields):
    """Tools under a common name, as Codex groups those of its servers."""

    type: Literal["namespace"]
    name: str
    description: str | None = None
    tools: Items[
        Annotated[
            Annotated[FunctionTool, Tag("@function")]
            | Annotated[CustomTool, Tag("@custom")]
            | Annotated[OtherTool, Tag("@other")],
            Discriminator(_kind_in_namespace),
        ]
    ]


AnyTool = Annotated[
    Annotated[FunctionTool, Tag("@function")]
    | Annotated[CustomTool, Tag("@custom")]
    | Annotated[NamespaceTool, Tag("@namespace")]
    | Annotated[OtherTool, Tag("@other")],
    Discriminator(_kind),
]
