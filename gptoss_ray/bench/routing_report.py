"""What `bench routing` found, beside the goal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gptoss_ray.bench.timings import percentile

Row = Mapping[str, float | int | str]

MIN_RATIO = 2.0


@dataclass(frozen=True)
class Turn:
    """One answered turn.

    Attributes:
        number: Of the turn in its conversation, from 0.
        first_token_s: From sending it to the first piece of the answer.
        num_tokens: Of its prompt.
        num_cached_tokens: Of them, taken from a prefix cache.
    """

    number: int
    first_token_s: float
    num_tokens: int
    num_cached_tokens: int


@dataclass(frozen=True)
class RoutedTrace:
    """A trace under one router."""

    router: str
    turns: Sequence[Turn]
    seconds: float

    @property
    def hit_rate(self) -> float:
        """Prompt tokens that were cached where they were sent, of all."""
        return sum(turn.num_cached_tokens for turn in self.turns) / sum(
            turn.num_tokens for turn in self.turns
        )

    def first_token_s(self, share: float) -> float:
        """Return the time to the first token that this share of the turns stayed within."""
        return percentile([turn.first_token_s for turn in self.turns], share)

    def row(self) -> Row:
        """Return the figures to print."""
        return {
            "router": self.router,
            "turns": len(self.turns),
            "seconds": round(self.seconds, 1),
            "prefix_hit_rate": round(self.hit_rate, 3),
            "first_token_p50_ms": round(self.first_token_s(0.5) * 1000),
            "first_token_p90_ms": round(self.first_token_s(0.9) * 1000),
            "first_token_p99_ms": round(self.first_token_s(0.99) * 1000),
        }


@dataclass(frozen=True)
class RoutingReport:
    """The same trace under Serve's router and under ours."""

    default: RoutedTrace
    prefix: RoutedTrace

    @property
    def p99_ratio(self) -> float:
        """How many times later the slowest of a hundred first tokens comes under Serve's router."""
        return self.default.first_token_s(0.99) / self.prefix.first_token_s(0.99)

    def tables(self) -> dict[str, list[Row]]:
        """Return rows to print, by title."""
        goal: Row = {
            "what": "p99 time to first token, Serve's router over ours",
            "measured": round(self.p99_ratio, 2),
            "goal": f">= {MIN_RATIO:g}",
            "met": "yes" if self.p99_ratio >= MIN_RATIO else "no",
        }
        return {"a multi-turn trace": [self.default.row(), self.prefix.row()], "goals": [goal]}
