"""Random chats with tools, and random well-formed model outputs, for the comparison with openai-harmony."""

from __future__ import annotations

import json
from random import Random
from typing import Any

from gptoss_ray.harmony.prompt import Message, Tool, ToolCall
from tests.support.random_text import random_text


def random_name(random: Random) -> str:
    """Return a function's name that both renderers take."""
    first = random.choice("abcdefgXYZ_")
    return first + "".join(random.choice("abcXYZ019_-.") for _ in range(random.randrange(12)))


def random_tools(random: Random) -> list[Tool]:
    """Return up to four tools with schemas that openai-harmony renders without loss."""
    names = dict.fromkeys(random_name(random) for _ in range(random.randrange(5)))
    return [Tool(name, _line(random), random.choice((None, _object(random, 2)))) for name in names]


def random_chat(random: Random) -> list[Message]:
    """Return a chat of up to six turns, tool loops included, in any of which reasoning may be kept."""
    messages = [
        Message(random.choice(("system", "developer")), random_text(random) + "x")
        for _ in range(random.randrange(3))
    ]
    for turn in range(random.randrange(6)):
        messages.append(Message("user", random_text(random)))
        if random.random() < 0.2:
            messages.append(Message(random.choice(("system", "developer")), random_text(random) + "x"))
        for loop in range(random.randrange(3)):
            messages += _tool_loop(random, f"{turn}.{loop}")
        if random.random() < 0.8:
            messages.append(Message("assistant", random_text(random), reasoning=_maybe_text(random)))
    return messages


def _tool_loop(random: Random, loop: str) -> list[Message]:
    calls = tuple(
        ToolCall(f"call-{loop}-{number}", random_name(random), json.dumps({"x": random_text(random, 5)}))
        for number in range(random.randrange(1, 3))
    )
    results = [Message("tool", random_text(random), tool_call_id=call.id) for call in calls]
    return [Message("assistant", _maybe_text(random), _maybe_text(random), calls), *results]


def _maybe_text(random: Random) -> str | None:
    return random.choice((None, random_text(random) + "x"))


def _line(random: Random) -> str:
    """Return text without line breaks, which openai-harmony lets run out of their comment."""
    return " ".join(random_text(random, 20).replace("\u2028", "").replace("\u2029", "").split())


def _object(random: Random, depth: int) -> dict[str, Any]:
    properties = {f"p{index}": _schema(random, depth - 1) for index in range(random.randrange(1, 4))}
    required = [name for name in properties if random.random() < 0.5]
    schema = {"type": "object", "properties": properties}
    if random.random() < 0.7:
        schema["required"] = required
    if random.random() < 0.3:
        schema["description"] = _line(random) + "x"
    return schema


def _schema(random: Random, depth: int) -> dict[str, Any]:
    schemas: list[dict[str, Any]] = [
        {"type": "string"},
        {"type": "string", "enum": ["celsius", "fahrenheit"], "default": "celsius"},
        {"type": "string", "default": "plain"},
        {"type": "integer", "default": 3},
        {"type": "number", "default": 0.5, "nullable": True},
        {"type": "boolean", "default": True},
        {"type": ["string", "null"], "default": None},
        {"type": "array", "items": {"type": "string"}, "default": ["a", {"b": 1}]},
        {"type": "array"},
        {"type": "object"},
        {
            "oneOf": [{"type": "string", "description": "text"}, {"type": "number", "default": 1}],
            "default": 2,
        },
        {},
    ]
    if depth:
        schemas += [_object(random, depth), {"type": "array", "items": _object(random, depth)}]
    schema = dict(random.choice(schemas))
    if random.random() < 0.3 and "oneOf" not in schema:
        schema["description"] = _line(random) + "x"
    if random.random() < 0.2:
        schema["title"] = _line(random) + "x"
    if random.random() < 0.2:
        schema["examples"] = ["one", "two"]
    return schema
