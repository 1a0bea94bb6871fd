"""`gptoss-ray chat`: a conversation with a running server, streamed, reasoning dimmed."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any

import httpx
import typer
from rich.console import Console
from rich.text import Text

from gptoss_ray.commands.chat_tools import SAMPLE_TOOLS, run_tool
from gptoss_ray.errors import GptossError
from gptoss_ray.http_client import bearer, first_model, sse_events, unreachable

MAX_TOOL_ROUNDS = 8
HELP = """\
/tools           offer sample functions (get_weather, get_time, multiply), or stop offering them
/effort LEVEL    low, medium or high
/reset           forget the conversation
/quit            leave (also Ctrl-D)"""


@dataclass
class Turn:
    """One answer as it grows."""

    content: str = ""
    reasoning: str = ""
    tool_calls: list[dict[str, Any]] = field(default_factory=list)

    def add(self, delta: dict[str, Any]) -> None:
        """Fold one streamed delta in."""
        self.reasoning += delta.get("reasoning") or ""
        self.content += delta.get("content") or ""
        for part in delta.get("tool_calls") or []:
            if part["index"] == len(self.tool_calls):
                empty = {"name": "", "arguments": ""}
                self.tool_calls.append({"id": part["id"], "type": "function", "function": empty})
            function = self.tool_calls[part["index"]]["function"]
            function["name"] += part["function"].get("name") or ""
            function["arguments"] += part["function"].get("arguments") or ""

    def message(self) -> dict[str, Any]:
        """Return the assistant message that goes back into the conversation."""
        message: dict[str, Any] = {"role": "assistant", "content": self.content, "reasoning": self.reasoning}
        if self.tool_calls:
            message["tool_calls"] = self.tool_calls
        return message


class ChatSession:
    """A conversation with a server: `messages` so far, and how the next one is asked.

    Args:
        http: Client with the server's base URL and credentials.
        console: Where the answer is streamed to.
        model: Model to ask.
        effort: Reasoning effort.
        system: Instructions for the model, or empty.
        temperature: 0 is greedy; None leaves it to the server.
    """

    def __init__(
        self,
        http: httpx.Client,
        console: Console,
        *,
        model: str,
        effort: str = "medium",
        system: str = "",
        temperature: float | None = None,
    ) -> None:
        self.http = http
        self.console = console
        self.model = model
        self.effort = effort
        self.temperature = temperature
        self.offers_tools = False
        self.opening = [{"role": "system", "content": system}] if system else []
        self.messages: list[dict[str, Any]] = list(self.opening)

    def reset(self) -> None:
        """Forget the conversation, keep the instructions."""
        self.messages = list(self.opening)

    def ask(self, text: str) -> str:
        """Send a user message, run tools as the model asks for them, return the final answer.

        Raises:
            GptossError: The server refused or broke off; the conversation is as before the question.
        """
        before = len(self.messages)
        self.messages.append({"role": "user", "content": text})
        try:
            for _ in range(MAX_TOOL_ROUNDS):
                turn = self._stream_turn()
                self.messages.append(turn.message())
                if not turn.tool_calls:
                    return turn.content
                self._run_tools(turn)
        except BaseException:
            del self.messages[before:]
            raise
        return turn.content

    def _run_tools(self, turn: Turn) -> None:
        for call in turn.tool_calls:
            name, arguments = call["function"]["name"], call["function"]["arguments"]
            result = run_tool(name, arguments)
            self._print(f"{name}({arguments}) -> {result}\n", "cyan")
            self.messages.append({"role": "tool", "tool_call_id": call["id"], "content": result})

    def _stream_turn(self) -> Turn:
        request: dict[str, Any] = {
            "model": self.model,
            "messages": self.messages,
            "reasoning_effort": self.effort,
            "stream": True,
        }
        if self.temperature is not None:
            request["temperature"] = self.temperature
        if self.offers_tools:
            request["tools"] = [tool.schema() for tool in SAMPLE_TOOLS]
        turn = Turn()
        try:
            with self.http.stream("POST", "/v1/chat/completions", json=request) as response:
                for event in sse_events(response):
                    for choice in event.get("choices", []):
                        self._show(turn, choice["delta"])
                        turn.add(choice["delta"])
        except httpx.HTTPError as error:
            raise unreachable(self.http, error) from error
        self.console.print()
        return turn

    def _show(self, turn: Turn, delta: dict[str, Any]) -> None:
        if delta.get("reasoning"):
            self._print(delta["reasoning"], "dim italic")
        if delta.get("content"):
            self._print("\n" if turn.reasoning and not turn.content else "", "")
            self._print(delta["content"], "")

    def _print(self, text: str, style: str) -> None:
        self.console.print(Text(text, style=style), end="", soft_wrap=True)


def chat(
    message: Annotated[
        str | None, typer.Argument(help="Ask this and leave; without it, a conversation.")
    ] = None,
    url: Annotated[str, typer.Option(help="Address of the server.")] = "http://127.0.0.1:8000",
    model: Annotated[str | None, typer.Option(help="Model; the server's first where not given.")] = None,
    effort: Annotated[str, typer.Option(help="Reasoning effort: low, medium or high.")] = "medium",
    system: Annotated[str, typer.Option(help="Instructions for the model.")] = "",
    temperature: Annotated[
        float | None, typer.Option(help="0 is greedy; the server's where not given.")
    ] = None,
    tools: Annotated[bool, typer.Option("--tools", help="Offer the sample functions.")] = False,
    api_key: Annotated[str, typer.Option(envvar="GPTOSS_RAY_API_KEY", help="Key of the server.")] = "",
) -> None:
    """Chat with a running server; answers stream, reasoning is dimmed."""
    console = Console(highlight=False)
    with httpx.Client(base_url=url, headers=bearer(api_key), timeout=httpx.Timeout(30.0, read=600.0)) as http:
        name = model or first_model(http)
        session = ChatSession(
            http, console, model=name, effort=effort, system=system, temperature=temperature
        )
        session.offers_tools = tools
        if message is not None:
            session.ask(message)
        else:
            converse(session)


def converse(session: ChatSession) -> None:
    """Read questions and slash commands until the user leaves; an error ends only its question."""
    session.console.print(f"Chatting with {session.model}. /help lists the commands.")
    while True:
        try:
            line = session.console.input("\n[bold]you>[/] ").strip()
        except (EOFError, KeyboardInterrupt):
            return
        if line in ("/quit", "/exit"):
            return
        try:
            if line.startswith("/"):
                session.console.print(slash_command(session, line))
            elif line:
                session.ask(line)
        except GptossError as error:
            session.console.print(Text(f"error: {error}", style="red"))
        except KeyboardInterrupt:
            session.console.print(Text(" (stopped)", style="yellow"))


def slash_command(session: ChatSession, line: str) -> str:
    """Carry out a slash command and return what to print."""
    command, _, argument = line.partition(" ")
    if command == "/tools":
        session.offers_tools = not session.offers_tools
        names = ", ".join(tool.name for tool in SAMPLE_TOOLS)
        return f"Offering {names}." if session.offers_tools else "No longer offering functions."
    if command == "/effort" and argument in ("low", "medium", "high"):
        session.effort = argument
        return f"Reasoning effort is {argument}."
    if command == "/reset":
        session.reset()
        return "Forgotten."
    return HELP
