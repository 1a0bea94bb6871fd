"""A chat as the tokens that the model reads: harmony's system, developer, user, assistant and tool messages.

Layout and wording are those of openai-harmony, the test oracle. Where we differ on purpose:

- A past call is written in the order in which the model emits it,
  `<|channel|>commentary to=functions.f <|constrain|>json`, so that its tokens hit the prefix cache.
- Every analysis before the last final answer is dropped, of all finished turns; what came after it, the
  reasoning of a tool loop under way, is kept.
- Tools are described by our own TypeScript renderer (see `typescript`).
"""

from __future__ import annotations

import datetime
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from gptoss_ray.errors import InvalidRequestError
from gptoss_ray.harmony.encoding import HarmonyEncoding
from gptoss_ray.harmony.typescript import comment_lines, type_of_parameters

REASONING_EFFORTS = ("low", "medium", "high")
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call that the assistant made earlier: the id that its result refers to, the function, JSON text."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a chat.

    Attributes:
        role: "system" and "developer" both carry instructions.
        content: Beside `tool_calls` it is the preamble said before the calls, else the final answer.
        reasoning: The assistant's analysis that came before its content and calls.
        tool_calls: The assistant's.
        tool_call_id: Of the call that a tool message answers.
        name: Of the function that a tool message answers for, where its call has no id.
        is_remark: Whether an assistant's content was said before calls that stand in later messages.
    """

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | None = None
    reasoning: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None
    name: str | None = None
    is_remark: bool = False


@dataclass(frozen=True, slots=True)
class Tool:
    """A function that the model may call; `parameters` is the JSON schema of its arguments' object."""

    name: str
    description: str = ""
    parameters: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class ResponseFormat:
    """The form that the final answer is to have: a JSON schema by name."""

    name: str
    schema: dict[str, Any]
    description: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptOptions:
    """What the system and developer messages say beside their fixed text and the chat's.

    Attributes:
        current_date: "YYYY-MM-DD"; hold it still within a conversation, or every prefix-cache hit is lost.
        reasoning_effort: "low", "medium" or "high".
        tool_choice: "none" hides the tools from the model.
        opens_answer: Whether the prompt ends in `<|start|>assistant`, behind which the model goes on.
        response_format: Described at the end of the developer message.
    """

    current_date: str
    reasoning_effort: str = "medium"
    tool_choice: Literal["auto", "none"] = "auto"
    opens_answer: bool = True
    response_format: ResponseFormat | None = None

    def __post_init__(self) -> None:
        if self.reasoning_effort not in REASONING_EFFORTS:
            raise InvalidRequestError(
                f"reasoning_effort is {self.reasoning_effort!r}; use {' or '.join(REASONING_EFFORTS)}.",
                param="reasoning_effort",
            )
        datetime.date.fromisoformat(self.current_date)


def render_chat(
    encoding: HarmonyEncoding, messages: Sequence[Message], tools: Sequence[Tool], options: PromptOptions
) -> list[int]:
    """Return the chat's token ids.

    Users' text, tools' names and descriptions included, never becomes a control token. Up to a second for a
    megabyte of text: run it in a thread.

    Raises:
        InvalidRequestError: A message or tool is at fault; `param` names the field.
    """
    tools = () if options.tool_choice == "none" else tools
    renderer = _Renderer(encoding)
    renderer.system(options, has_tools=bool(tools))
    num_leading = _num_leading_instructions(messages)
    leading = [message.content or "" for message in messages[:num_leading]]
    renderer.developer(leading, tools, options.response_format)
    last_final = max((i for i, message in enumerate(messages) if _is_final(message)), default=-1)
    for index, message in enumerate(messages[num_leading:], start=num_leading):
        renderer.message(index, message, keep_reasoning=index > last_final)
    if options.opens_answer:
        renderer.generation_prompt()
    return renderer.token_ids


def _num_leading_instructions(messages: Sequence[Message]) -> int:
    """Return how many system and developer messages open the chat."""
    roles = [message.role in ("system", "developer") for message in messages]
    return roles.index(False) if False in roles else len(roles)


def _is_final(message: Message) -> bool:
    """Whether the message is a final answer, the end of a turn."""
    is_whole = message.content is not None and not message.tool_calls and not message.is_remark
    return message.role == "assistant" and is_whole


class _Renderer:
    """Appends messages to `token_ids`; text and control tokens are written by different methods."""

    def __init__(self, encoding: HarmonyEncoding) -> None:
        self.token_ids: list[int] = []
        self._encoding = encoding
        self._call_names: dict[str, str] = {}

    def system(self, options: PromptOptions, *, has_tools: bool) -> None:
        """Write the system message, which harmony keeps for facts about the model."""
        text = (
            "You are ChatGPT, a large language model trained by OpenAI.\n"
            "Knowledge cutoff: 2024-06\n"
            f"Current date: {options.current_date}\n\n"
            f"Reasoning: {options.reasoning_effort}\n\n"
            "# Valid channels: analysis, commentary, final. Channel must be included for every message."
        )
        if has_tools:
            text += "\nCalls to these tools must go to the commentary channel: 'functions'."
        self._message("system", text, param="messages")

    def developer(
        self,
        instructions: Sequence[str],
        tools: Sequence[Tool] = (),
        response_format: ResponseFormat | None = None,
        *,
        param: str = "messages",
    ) -> None:
        """Write a developer message; none where there is nothing to say in it."""
        text = "\n\n".join(filter(None, instructions))
        sections = [f"# Instructions\n\n{text}"] if text else []
        if tools:
            sections.append(_describe_tools(tools))
        if response_format is not None:
            sections.append(_describe_format(response_format))
        if sections:
            self._message("developer", "\n\n".join(sections), param=param)

    def message(self, index: int, message: Message, *, keep_reasoning: bool) -> None:
        """Write the chat's message number `index`."""
        param = f"messages[{index}]"
        if message.role == "assistant":
            self._assistant(message, param, keep_reasoning)
        elif message.role == "tool":
            self._tool_result(message, param)
        elif message.role == "user":
            self._message("user", message.content or "", param=f"{param}.content")
        elif message.role in ("system", "developer"):
            self.developer([message.content or ""], param=f"{param}.content")
        else:
            raise InvalidRequestError(
                f"{param}.role is {message.role!r}; it must be system, developer, user, assistant or tool.",
                param=f"{param}.role",
            )

    def generation_prompt(self) -> None:
        """Open the message that the model is to write."""
        self._control(self._encoding.start)
        self._text("assistant", "messages")

    def _assistant(self, message: Message, param: str, keep_reasoning: bool) -> None:
        """Write what the assistant said, in the model's own order: reasoning, content, calls."""
        if message.reasoning and keep_reasoning:
            self._message("assistant", message.reasoning, "analysis", param=f"{param}.reasoning")
        if message.content is not None and (message.content or not message.tool_calls):
            channel = "commentary" if message.tool_calls or message.is_remark else "final"
            self._message("assistant", message.content, channel, param=f"{param}.content")
        for number, call in enumerate(message.tool_calls):
            self._call(call, f"{param}.tool_calls[{number}].function")

    def _call(self, call: ToolCall, param: str) -> None:
        check_name(call.name, f"{param}.name")
        self._call_names[call.id] = call.name
        self._control(self._encoding.start)
        self._text("assistant", param)
        self._control(self._encoding.channel)
        self._text(f"commentary to=functions.{call.name} ", param)
        self._control(self._encoding.constrain)
        self._text("json", param)
        self._control(self._encoding.message)
        self._text(call.arguments, f"{param}.arguments")
        self._control(self._encoding.call)

    def _tool_result(self, message: Message, param: str) -> None:
        if message.name is not None:
            check_name(message.name, f"{param}.name")
        name = message.name or self._call_names.get(message.tool_call_id or "")
        if name is None:
            raise InvalidRequestError(
                f"{param}.tool_call_id is {message.tool_call_id!r}, which is the id of no earlier tool call; "
                "send the assistant message with that call before its result.",
                param=f"{param}.tool_call_id",
            )
        author = f"functions.{name} to=assistant"
        self._message(author, message.content or "", "commentary", param=f"{param}.content")

    def _message(self, header: str, content: str, channel: str | None = None, *, param: str) -> None:
        self._control(self._encoding.start)
        self._text(header, param)
        if channel is not None:
            self._control(self._encoding.channel)
            self._text(channel, param)
        self._control(self._encoding.message)
        self._text(content, param)
        self._control(self._encoding.end)

    def _control(self, token_id: int) -> None:
        self.token_ids.append(token_id)

    def _text(self, text: str, param: str) -> None:
        self.token_ids.extend(self._encoding.encode(text, param=param))


def _describe_tools(tools: Sequence[Tool]) -> str:
    """Return the developer message's section that declares the functions in TypeScript."""
    lines = ["# Tools\n", "## functions\n", "namespace functions {\n"]
    names: set[str] = set()
    for index, tool in enumerate(tools):
        param = f"tools[{index}].function"
        check_name(tool.name, f"{param}.name")
        if tool.name in names:
            raise InvalidRequestError(
                f"{param}.name is {tool.name!r}, the name of an earlier tool too; give each its own.",
                param=f"{param}.name",
            )
        names.add(tool.name)
        lines += comment_lines(tool.description)
        arguments = type_of_parameters(tool.parameters, param=f"{param}.parameters")
        lines.append(f"type {tool.name} = ({f'_: {arguments}' if arguments else ''}) => any;\n")
    lines.append("} // namespace functions")
    return "\n".join(lines)


def _describe_format(response_format: ResponseFormat) -> str:
    """Return the developer message's section that tells the form of the answer."""
    schema = json.dumps(response_format.schema, ensure_ascii=False, separators=(",", ":"))
    lines = ["# Response Formats\n", f"## {response_format.name}\n"]
    return "\n".join([*lines, *comment_lines(response_format.description), schema])


def check_name(name: str, param: str) -> None:
    """Raise InvalidRequestError unless the function's name can stand in a message header."""
    if not _NAME.fullmatch(name):
        raise InvalidRequestError(
            f"{param} is {name[:80]!r}; a function's name has 1 to 64 of A-Z a-z 0-9 _ . and -.", param=param
        )
