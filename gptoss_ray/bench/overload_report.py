"""What `bench overload` found, beside the goals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gptoss_ray.bench.timings import percentile

Row = Mapping[str, float | int | str]

MIN_GOODPUT_SHARE = 0.95
MAX_REFUSAL_S = 0.05
FAIR_SHARES = (0.45, 0.55)


@dataclass(frozen=True)
class Outcome:
    """What became of one request.

    Attributes:
        key: Whose it was.
        status: Of the answer.
        sent_s: When it was sent, in seconds of the monotonic clock.
        ended_s: When its answer was complete.
        num_tokens: Of its output, 0 where it was refused.
    """

    key: str
    status: int
    sent_s: float
    ended_s: float
    num_tokens: int = 0


@dataclass(frozen=True)
class Load:
    """A stretch of time under one load, and what ended in it."""

    outcomes: Sequence[Outcome]
    begin_s: float
    end_s: float

    @property
    def tokens_per_s(self) -> float:
        """Of answers that were completed: a refused or broken request counts nothing."""
        return sum(each.num_tokens for each in self._counted()) / (self.end_s - self.begin_s)

    @property
    def requests_per_s(self) -> float:
        """Requests that ended, in whatever way."""
        return len(self._counted()) / (self.end_s - self.begin_s)

    def num_of_status(self, status: int) -> int:
        """Return how many requests ended so."""
        return sum(each.status == status for each in self._counted())

    def share_of(self, key: str) -> float:
        """Return the part of the completed tokens that a key got."""
        tokens = sum(each.num_tokens for each in self._counted())
        return sum(each.num_tokens for each in self._counted() if each.key == key) / max(1, tokens)

    def refusals_s(self) -> list[float]:
        """Return how long each refusal took."""
        return [each.ended_s - each.sent_s for each in self._counted() if each.status == 429]

    def _counted(self) -> list[Outcome]:
        return [each for each in self.outcomes if self.begin_s <= each.ended_s < self.end_s]


@dataclass(frozen=True)
class OverloadReport:
    """The peak, and what is left of it at `factor` times as many requests, of which `loud` sends most."""

    peak: Load
    overload: Load
    factor: float
    loud: str
    quiet: str

    @property
    def goodput_share(self) -> float:
        """Tokens per second under overload, of those at the peak."""
        return self.overload.tokens_per_s / self.peak.tokens_per_s

    def tables(self) -> dict[str, list[Row]]:
        """Return rows to print, by title."""
        return {
            f"completed answers, at the peak and at {self.factor:g} times its requests": [
                self._load_row("peak", self.peak),
                self._load_row(f"{self.factor:g} x", self.overload),
            ],
            "goals": self._goals(),
        }

    def to_json(self) -> dict[str, list[Row]]:
        """Return the same for a file."""
        return self.tables()

    def _load_row(self, name: str, load: Load) -> Row:
        return {
            "load": name,
            "requests_per_s": round(load.requests_per_s, 1),
            "tokens_per_s": round(load.tokens_per_s, 1),
            "answered": load.num_of_status(200),
            "refused": load.num_of_status(429),
            "failed": sum(each.status not in (200, 429) for each in load.outcomes),
        }

    def _goals(self) -> list[Row]:
        refusals_s = self.overload.refusals_s()
        p50_s, p99_s = (percentile(refusals_s, share) if refusals_s else 0.0 for share in (0.5, 0.99))
        quiet_share = self.overload.share_of(self.quiet)
        low, high = FAIR_SHARES
        return [
            _goal("goodput of the peak", self.goodput_share, f">= {MIN_GOODPUT_SHARE:g}",
                  self.goodput_share >= MIN_GOODPUT_SHARE),
            _goal("refusal, p50, ms", p50_s * 1000, "", True),
            _goal("refusal, p99, ms", p99_s * 1000, f"<= {MAX_REFUSAL_S * 1000:g}", p99_s <= MAX_REFUSAL_S),
            _goal("tokens of the key with the fewer requests", quiet_share, f"{low:g} to {high:g}",
                  low <= quiet_share <= high),
        ]  # fmt: skip


def _goal(what: str, value: float, goal: str, is_met: bool) -> Row:
    return {"what": what, "measured": round(value, 3), "goal": goal, "met": "yes" if is_met else "no"}
