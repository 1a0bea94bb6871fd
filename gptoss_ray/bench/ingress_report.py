"""What `bench ingress` found, beside the goals."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from gptoss_ray.bench.streaming_clients import StreamedAnswer
from gptoss_ray.bench.timings import percentile
from gptoss_ray.errors import GptossError

Row = Mapping[str, float | int | str]

MAX_MEDIAN_DELAY_S = 0.003
MIN_RATE_SHARE = 0.95
"""Of the rate that was asked for; with less, the machine was too busy for the delay to tell anything."""
MAX_HOSTILE_ANSWER_S = 2.0
MAX_GAP_S = 0.1
ALLOWED_STATUSES = frozenset({200, 400})


@dataclass(frozen=True)
class TimedAnswer:
    """When each token of an answer left the engine and when it reached the client, in order; at least two."""

    drawn_s: tuple[float, ...]
    arrived_s: tuple[float, ...]

    @property
    def delays_s(self) -> list[float]:
        """On the way; without the last token, with which the stamps were written and the stream ended."""
        pairs = zip(self.drawn_s[:-1], self.arrived_s[:-1], strict=True)
        return [arrived_s - drawn_s for drawn_s, arrived_s in pairs]

    @property
    def first_was_held(self) -> bool:
        """Whether the first token reached the client only after the engine had made the second."""
        return self.arrived_s[0] >= self.drawn_s[1]


def timed(
    answers: Iterable[StreamedAnswer], stamps: Mapping[str, tuple[float, ...]]
) -> tuple[TimedAnswer, ...]:
    """Bring what clients saw and what the engine wrote down together.

    Args:
        answers: Of requests with one choice each.
        stamps: By the engine's name for a request: the answer's id and the number of the choice.

    Raises:
        GptossError: A token was lost, or came twice.
    """
    pairs = []
    for answer in answers:
        drawn_s = stamps.get(f"{answer.id}-0", ())
        if len(drawn_s) != len(answer.moments_s):
            raise GptossError(
                f"answer {answer.id}: {len(answer.moments_s)} tokens reached the client, "
                f"{len(drawn_s)} left the engine"
            )
        pairs.append(TimedAnswer(drawn_s, answer.moments_s))
    return tuple(pairs)


@dataclass(frozen=True)
class Overhead:
    """Streams of a steady rate over one protocol; `rate` is what each was to have, in tokens per second."""

    mode: str
    protocol: str
    rate: float
    answers: tuple[TimedAnswer, ...]

    def row(self) -> Row:
        """Return the figures that are printed."""
        delays_s = [delay_s for answer in self.answers for delay_s in answer.delays_s]
        first_s = [answer.delays_s[0] for answer in self.answers]
        num_held = sum(answer.first_was_held for answer in self.answers)
        median_s = percentile(delays_s, 0.5)
        tokens_per_s = sum(_rate(answer.drawn_s) for answer in self.answers)
        had_load = tokens_per_s >= MIN_RATE_SHARE * self.rate * len(self.answers)
        return {
            "mode": self.mode,
            "protocol": self.protocol,
            "streams": len(self.answers),
            "tokens_per_s": round(tokens_per_s, 1),
            "p50_ms": _ms(median_s),
            "p99_ms": _ms(percentile(delays_s, 0.99)),
            "first_p50_ms": _ms(percentile(first_s, 0.5)),
            "first_max_ms": _ms(max(first_s)),
            "first_held_back": num_held,
            "goal_met": _yes(had_load and median_s <= MAX_MEDIAN_DELAY_S and num_held == 0),
        }


@dataclass(frozen=True)
class Maximum:
    """As many tokens as one ingress replica passes on.

    Attributes:
        num_tokens: Read by the clients.
        wall_s: From the first request to the last token.
        client_cpu_s: Of the process of the clients; near `wall_s`, it was they that could not do more.
    """

    mode: str
    protocol: str
    num_streams: int
    num_tokens: int
    wall_s: float
    client_cpu_s: float

    def row(self) -> Row:
        """Return the figures that are printed."""
        return {
            "mode": self.mode,
            "protocol": self.protocol,
            "streams": self.num_streams,
            "tokens_per_s": round(self.num_tokens / self.wall_s),
            "client_cpu_percent": round(100 * self.client_cpu_s / self.wall_s),
        }


@dataclass(frozen=True)
class HostileResult:
    """A hostile body, posted several times, and what a steady stream saw of it.

    Attributes:
        text: Name of what is in it; that of nothing is a second without any.
        seconds: Until each answer was complete.
        gap_s: The greatest between two tokens of the stream meanwhile.
    """

    mode: str
    text: str
    path: str
    statuses: tuple[int, ...]
    seconds: tuple[float, ...]
    gap_s: float

    def row(self) -> Row:
        """Return the figures that are printed."""
        is_met = (
            ALLOWED_STATUSES.issuperset(self.statuses)
            and max(self.seconds, default=0.0) <= MAX_HOSTILE_ANSWER_S
            and self.gap_s < MAX_GAP_S
        )
        return {
            "mode": self.mode,
            "text": self.text,
            "path": self.path,
            "status": ", ".join(map(str, sorted(set(self.statuses)))),
            "slowest_s": round(max(self.seconds, default=0.0), 3),
            "greatest_gap_ms": _ms(self.gap_s),
            "goal_met": _yes(is_met),
        }


def greatest_gap_s(moments_s: Sequence[float], begin_s: float, end_s: float) -> float:
    """Return the greatest gap between neighbouring moments of which a part lies between two others.

    Raises:
        GptossError: The moments do not reach from the first to beyond the second.
    """
    if not moments_s or moments_s[0] > begin_s or moments_s[-1] < end_s:
        raise GptossError("the steady stream did not go on all the time; nothing can be said about its gaps")
    return max(after - before for before, after in pairwise(moments_s) if after > begin_s and before < end_s)


@dataclass
class IngressReport:
    """All figures of one run, in the order in which they were taken.

    Attributes:
        num_streams: At once.
        rate: Tokens per second of each stream of a steady rate.
        not_measured: Modes that could not be, with the reason.
    """

    num_streams: int
    rate: float
    overhead: list[Overhead] = field(default_factory=list)
    maximum: list[Maximum] = field(default_factory=list)
    hostile: list[HostileResult] = field(default_factory=list)
    not_measured: dict[str, str] = field(default_factory=dict)

    def tables(self) -> Mapping[str, list[Row]]:
        """Return what is printed: title -> rows of equal keys."""
        tables: dict[str, list[Row]] = {
            f"from the engine to the client, {self.num_streams} streams x {self.rate:g} tokens/s "
            f"(goal: p50 <= {_ms(MAX_MEDIAN_DELAY_S):g} ms, no first token held back)": [
                result.row() for result in self.overhead
            ],
            "most tokens/s through one ingress replica": [result.row() for result in self.maximum],
            f"hostile bodies beside a steady stream (goal: 200 or 400 within {MAX_HOSTILE_ANSWER_S:g} s, "
            f"gap < {_ms(MAX_GAP_S):g} ms)": [result.row() for result in self.hostile],
            "not measured": [{"mode": mode, "reason": reason} for mode, reason in self.not_measured.items()],
        }
        return {title: rows for title, rows in tables.items() if rows}

    def to_json(self) -> dict[str, object]:
        """Return everything, and the machine."""
        from gptoss_ray.bench.machine import machine_row  # noqa: PLC0415  (torch takes seconds to import)

        return {
            "machine": machine_row(),
            "streams": self.num_streams,
            "tokens_per_s_of_a_stream": self.rate,
            "goals": {
                "max_p50_ms": _ms(MAX_MEDIAN_DELAY_S),
                "max_first_held_back": 0,
                "hostile_statuses": sorted(ALLOWED_STATUSES),
                "max_hostile_s": MAX_HOSTILE_ANSWER_S,
                "max_gap_ms": _ms(MAX_GAP_S),
            },
            "overhead": [result.row() for result in self.overhead],
            "maximum": [result.row() for result in self.maximum],
            "hostile": [result.row() for result in self.hostile],
            "not_measured": self.not_measured,
        }


def _rate(moments_s: Sequence[float]) -> float:
    return (len(moments_s) - 1) / (moments_s[-1] - moments_s[0])


def _ms(seconds: float) -> float:
    return round(1e3 * seconds, 2)


def _yes(is_so: bool) -> str:
    return "yes" if is_so else "no"
