"""The sample functions that `gptoss-ray chat` offers after `/tools`; they run in the chat process."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any


@dataclass(frozen=True)
class ChatTool:
    """A function the model may call: its OpenAI tool schema and its body."""

    name: str
    description: str
    parameters: dict[str, dict[str, Any]]
    run: Callable[..., object]

    def schema(self) -> dict[str, Any]:
        """Return the entry of a chat request's `tools`."""
        return {
            "type": "function",
            "function": {
                "name": self.name,
                "description": self.description,
                "parameters": {
                    "type": "object",
                    "properties": self.parameters,
                    "required": list(self.parameters),
                },
            },
        }


def _weather(city: str) -> dict[str, object]:
    """Make up a steady sample reading from the city's name; there is no weather service behind it."""
    return {"city": city, "temperature": 5 + sum(city.encode()) % 25, "source": "sample data"}


def _time(city: str) -> dict[str, object]:
    return {"city": city, "utc_time": datetime.now(timezone.utc).strftime("%H:%M")}


def _multiply(a: float, b: float) -> dict[str, object]:
    return {"product": a * b}


_CITY = {"city": {"type": "string", "description": "Name of the city."}}
_FACTORS = {"a": {"type": "number"}, "b": {"type": "number"}}

SAMPLE_TOOLS = (
    ChatTool("get_weather", "Get the weather in a city.", _CITY, _weather),
    ChatTool("get_time", "Get the current time.", _CITY, _time),
    ChatTool("multiply", "Multiply two numbers.", _FACTORS, _multiply),
)


def run_tool(name: str, arguments: str) -> str:
    """Run a sample tool on JSON arguments; every failure becomes a JSON result for the model to read."""
    tool = next((tool for tool in SAMPLE_TOOLS if tool.name == name), None)
    if tool is None:
        return json.dumps({"error": f"no tool is called {name}"})
    try:
        return json.dumps(tool.run(**json.loads(arguments)))
    except (TypeError, ValueError) as error:
        return json.dumps({"error": str(error)})
