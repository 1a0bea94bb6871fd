"""Harmony outputs, and expressions that find them in a later prompt: for rules of a `RuledServer`."""

from __future__ import annotations

import json
import re
from typing import Any

TOLD = r"<\|message\|>(?P<told>.*?)<\|end\|><\|start\|>assistant$"
"""The end of a prompt whose last message is the result of a call, named `told`."""


def final(text: str) -> str:
    """Return an answer."""
    return f"<|channel|>final<|message|>{text}<|return|>"


def call(reasoning: str, function: str, **arguments: Any) -> str:
    """Return a thought and the call of a function."""
    return (
        f"<|channel|>analysis<|message|>{reasoning}<|end|>"
        f"<|start|>assistant<|channel|>commentary to=functions.{function} <|constrain|>json<|message|>"
        f"{json.dumps(arguments)}<|call|>"
    )


def result_of(reasoning: str, function: str, **arguments: Any) -> str:
    """Return the expression for a prompt that ends with the result of this very call, thought and all."""
    name = re.escape(function)
    return (
        rf"<\|channel\|>analysis<\|message\|>{re.escape(reasoning)}<\|end\|>"
        rf"<\|start\|>assistant<\|channel\|>commentary to=functions\.{name} <\|constrain\|>json<\|message\|>"
        rf"{re.escape(json.dumps(arguments))}<\|call\|>"
        rf"<\|start\|>functions\.{name} to=assistant[^<]*{TOLD}"
    )
