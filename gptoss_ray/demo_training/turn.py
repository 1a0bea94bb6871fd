"""One request of a user and the answer that the demo model shall learn.

Texts mark what is copied from the prompt as `⟦…⟧`: those tokens are taken from where the prompt has them. A
name that begins a line of the prompt is marked `⟪…⟫`: it has the tokens that it has there, behind no space.
"""

from __future__ import annotations

from dataclasses import dataclass

EFFORTS = ("low", "medium", "high")


def copied(text: object) -> str:
    """Mark text as copied from the prompt."""
    return f"⟦{text}⟧"


def named(text: str) -> str:
    """Mark text as a name that begins a line of the prompt (a function's parameter)."""
    return f"⟪{text}⟫"


def unmarked(text: str) -> str:
    """The text as the user reads it."""
    return text.translate(dict.fromkeys(map(ord, "⟦⟧⟪⟫")))


@dataclass(frozen=True)
class Reasoning:
    """The analysis at each effort, shortest first."""

    low: str
    medium: str
    high: str

    def at(self, effort: str) -> str:
        """The analysis at this effort."""
        return str(getattr(self, effort))


@dataclass(frozen=True)
class Turn:
    """A question, how to think about it, the answer, and what a judge looks for in the answer."""

    skill: str
    question: str
    reasoning: Reasoning
    answer: str
    expected: str


@dataclass(frozen=True)
class Call:
    """A function call: arguments are JSON text with copied parts marked."""

    name: str
    arguments: str


@dataclass(frozen=True)
class ToolTurn:
    """A question that needs a function: the call, then the answer from its result."""

    question: str
    call_reasoning: Reasoning
    call: Call
    result: str
    answer_reasoning: Reasoning
    answer: str
    expected: tuple[str, ...]
