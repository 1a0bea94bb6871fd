"""The functions that the model is shown for a request's tools, and the way back from what it calls."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from gptoss_ray.harmony.prompt import check_name
from gptoss_ray.serving.chat_prompt import check_size
from gptoss_ray.serving.openai_types import FunctionDefinition, ToolDefinition
from gptoss_ray.serving.responses.tool_choice import ToolRef
from gptoss_ray.serving.responses.tools import CustomTool, FunctionTool, NamespaceTool, ToolFields

MAX_NAME_LENGTH = 64
"""Of a function in a prompt; see `harmony.prompt.check_name`."""

CUSTOM_INPUT = "input"
"""The one argument of the function that stands for a custom tool."""

_CUSTOM_PARAMETERS: dict[str, Any] = {
    "type": "object",
    "properties": {CUSTOM_INPUT: {"type": "string"}},
    "required": [CUSTOM_INPUT],
    "additionalProperties": False,
}


@dataclass(frozen=True, slots=True)
class OfferedTool:
    """A tool that the model may call.

    Attributes:
        ref: Its name, as the client knows it.
        is_custom: Whether it takes text in place of JSON.
        definition: What the model is shown.
        path: Of the tool in the request.
    """

    ref: ToolRef
    is_custom: bool
    definition: ToolDefinition
    path: str


class ToolTable:
    """Gives each tool a name of its own among those shown: `namespace__name` within a namespace.

    A name that is taken already or too long gets the beginning of a hash of both at its end, so that equal
    tools have equal names in every request of a conversation.

    Args:
        tools: Of the request.
        max_tools: Most that the model may be shown.

    Raises:
        InvalidRequestError: There are more, or a name has other characters than fit into a prompt.
    """

    def __init__(self, tools: Sequence[ToolFields], max_tools: int) -> None:
        self._by_shown_name: dict[str, OfferedTool] = {}
        self._shown_names: dict[ToolRef, str] = {}
        self.offered: list[OfferedTool] = []
        found = list(_flat(tools))
        check_size("tools", len(found), max_tools)
        # Names without a namespace are fixed, so they come first; the order is always the same.
        for tool in sorted(found, key=lambda tool: (tool.ref.namespace or "", tool.ref.name)):
            self._name(tool.ref, tool.path)
        for tool in found:
            name = self._shown_names[tool.ref]
            definition = _definition(tool.given, name, tool.heading)
            offered = OfferedTool(tool.ref, isinstance(tool.given, CustomTool), definition, tool.path)
            self.offered.append(offered)
            self._by_shown_name[name] = offered

    def shown_name(self, ref: ToolRef) -> str:
        """Return how the model knows a tool, also one of an earlier request that is no longer offered."""
        return self._shown_names.get(ref) or _qualified(ref)

    def called(self, shown_name: str) -> OfferedTool | None:
        """Return the tool that the model means, None if it is none of the offered.

        Models now and then leave out a namespace; where one tool alone has the name, it is meant.
        """
        if shown_name in self._by_shown_name:
            return self._by_shown_name[shown_name]
        same_name = [tool for tool in self.offered if tool.ref.name == shown_name]
        return same_name[0] if len(same_name) == 1 else None

    def _name(self, ref: ToolRef, path: str) -> None:
        check_name(ref.name, f"{path}.name")
        if ref.namespace is not None:
            check_name(ref.namespace, f"{path.rpartition('.tools')[0]}.name")
        name = _qualified(ref)
        if ref not in self._shown_names and name in self._shown_names.values():
            name = _hashed(ref)
        self._shown_names.setdefault(ref, name)


def _qualified(ref: ToolRef) -> str:
    if ref.namespace is None:
        return ref.name
    name = f"{ref.namespace}__{ref.name}"
    return name if len(name) <= MAX_NAME_LENGTH else _hashed(ref)


def _hashed(ref: ToolRef) -> str:
    # A name holds no slash, so the hashed text is that of one tool alone.
    digest = hashlib.sha256(f"{ref.namespace}/{ref.name}".encode()).hexdigest()[:12]
    return f"{f'{ref.namespace}__{ref.name}'[: MAX_NAME_LENGTH - 13]}_{digest}"


class _FoundTool(NamedTuple):
    """A tool of the request; `heading` tells of the namespace that begins with it."""

    given: FunctionTool | CustomTool
    ref: ToolRef
    path: str
    heading: str = ""


def _flat(tools: Sequence[ToolFields]) -> Iterator[_FoundTool]:
    """Yield the tools that the model may call, out of their namespaces."""
    for index, tool in enumerate(tools):
        path = f"tools[{index}]"
        if isinstance(tool, FunctionTool | CustomTool):
            yield _FoundTool(tool, ToolRef(tool.name), path)
        elif isinstance(tool, NamespaceTool):
            heading = f"{tool.name}: {tool.description}" if tool.description else ""
            for number, member in enumerate(tool.tools):
                if isinstance(member, FunctionTool | CustomTool):
                    ref = ToolRef(member.name, tool.name)
                    yield _FoundTool(member, ref, f"{path}.tools[{number}]", heading)
                    heading = ""


def _definition(tool: FunctionTool | CustomTool, shown_name: str, heading: str) -> ToolDefinition:
    described = "\n".join(filter(None, (heading, tool.description)))
    parameters: dict[str, Any] | None = _CUSTOM_PARAMETERS
    strict: bool | None = None
    if isinstance(tool, FunctionTool):
        parameters, strict = tool.parameters, tool.strict
    elif tool.format is not None and tool.format.definition:
        described = "\n\n".join(filter(None, (described, tool.format.definition)))
    function = FunctionDefinition(
        name=shown_name, description=described or None, parameters=parameters, strict=strict
    )
    return ToolDefinition(type="function", function=function)
