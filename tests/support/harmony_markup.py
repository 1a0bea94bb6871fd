"""Harmony outputs, and expressions that find them in a later prompt: for rules of a `RuledServer`."""

from __future__ import annotations

import json
import re
from typing import Any


def final(text: str) -> str:
    """Return an answer."""
    return f"<|channel|>final<|message|>{text}<|return|>"


def reasoned(reasoning: str, text: str) -> str:
    """Return a thought and an answer."""
    return f"<|channel|>analysis<|message|>{reasoning}<|end|><|start|>assistant{final(text)}"


def call(reasoning: str, function: str, **arguments: Any) -> str:
    """Return a thought and the call of a function."""
    return (
        f"<|channel|>analysis<|message|>{reasoning}<|end|>"
        f"<|start|>assistant<|channel|>commentary to=functions.{function} <|constrain|>json<|message|>"
        f"{_json(arguments)}<|call|>"
    )


def asked(text: str, function: str) -> str:
    """Return the expression for a prompt with this text and this function on offer, and no call so far."""
    return rf"^(?!.*<\|start\|>functions\.).*namespace functions.*\ntype {function} .*{re.escape(text)}"


def result_of(reasoning: str, function: str, **arguments: Any) -> str:
    """Return the expression for a prompt that ends with the result of this very call, thought and all.

    The result is the group `told`.
    """
    said = re.escape(call(reasoning, function, **arguments))
    result = (
        rf"<\|start\|>functions\.{function} to=assistant<\|channel\|>commentary<\|message\|>(?P<told>.*?)"
    )
    return rf"{said}{result}<\|end\|><\|start\|>assistant$"


def _json(arguments: dict[str, Any]) -> str:
    """Return the text that a client which has read the arguments writes again."""
    return json.dumps(arguments, separators=(",", ":"))
