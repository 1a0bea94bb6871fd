"""Conversations of several turns that begin alike, as traffic for what caches prefixes."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

_TOKEN_IDS = range(1000, 100_000)


@dataclass(frozen=True)
class MultiTurnTrace:
    """What users send: every turn's prompt is the one before, its answer, and a new question.

    Attributes:
        num_conversations: Each begins with the same system prompt.
        num_turns: Of each.
        system_tokens: That all begin with.
        turn_tokens: That a turn adds to its conversation, the answer before it included.
        think_s: Mean time from an answer to the next turn of its conversation.
        seed: The same seed, the same trace.
    """

    num_conversations: int = 24
    num_turns: int = 6
    system_tokens: int = 256
    turn_tokens: int = 320
    think_s: float = 0.5
    seed: int = 7

    @property
    def num_tokens(self) -> int:
        """Of the longest prompt."""
        return self.system_tokens + self.num_turns * self.turn_tokens

    def prompts(self, conversation: int) -> Sequence[tuple[int, ...]]:
        """Return the prompts of a conversation's turns."""
        system = random.Random(self.seed).choices(_TOKEN_IDS, k=self.system_tokens)
        draw = random.Random(self.seed + 1 + conversation)
        said = draw.choices(_TOKEN_IDS, k=self.num_turns * self.turn_tokens)
        return [tuple(system + said[: (turn + 1) * self.turn_tokens]) for turn in range(self.num_turns)]

    def pauses_s(self, conversation: int) -> Sequence[float]:
        """Return how long its user thinks before each turn."""
        draw = random.Random(-self.seed - 1 - conversation)
        return [draw.expovariate(1 / self.think_s) if self.think_s else 0.0 for _ in range(self.num_turns)]
