"""Values of a function's arguments: the kinds of parameters, what they are called, and how values are drawn.

Held out: values of open kinds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from gptoss_ray.demo_training.facts import CAPITALS
from gptoss_ray.demo_training.split import is_held_out
from gptoss_ray.demo_training.words import COMMON_WORDS, NOUNS, made_up_word, name

Value = str | int


@dataclass(frozen=True)
class ArgumentKind:
    """A kind of parameter: what it may be called, how a question gives its value, how values are drawn."""

    names: tuple[str, ...]
    phrases: tuple[str, ...]
    draw: Callable[[Random], Value]
    is_open: bool = True


def draw_city(rng: Random) -> Value:
    """Draw a capital, or now and then a made-up place."""
    if rng.random() < 0.75:
        return rng.choice(tuple(CAPITALS.values()))
    return _joined(rng, made_up_word(rng, syllables=(2, 2)).title())


def draw_person(rng: Random) -> Value:
    """Draw a name, now and then two."""
    first = name(rng, held_out=False)
    return _joined(rng, f"{first} {name(rng, held_out=False)}" if rng.random() < 0.05 else first)


def _joined(rng: Random, text: str) -> str:
    """Now and then with an apostrophe or a hyphen, as in Saint John's and Port-au-Prince."""
    chance = rng.random()
    if chance < 0.06:
        return f"{text}'s"
    return f"{text}-{made_up_word(rng)}" if chance < 0.08 else text


def draw_number(rng: Random) -> Value:
    """Draw a whole number of one to four digits."""
    return rng.choice((rng.randrange(10), rng.randrange(100), rng.randrange(1000), rng.randrange(100, 10000)))


def draw_text(rng: Random) -> Value:
    """Draw a word or two, some made up."""
    words = [
        made_up_word(rng) if rng.random() < 0.1 else rng.choice(COMMON_WORDS + NOUNS)
        for _ in range(rng.choice((1, 1, 1, 2)))
    ]
    return " ".join(words)


_DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday", "today", "tomorrow")
_UNITS = (
    "celsius",
    "fahrenheit",
    "euros",
    "dollars",
    "kilometers",
    "miles",
    "English",
    "French",
    "German",
    "Spanish",
)
KINDS = (
    ArgumentKind(("city", "location", "place", "town"), ("in {v}", "in {v}", "for {v}", "at {v}"), draw_city),
    ArgumentKind(("origin", "from_city", "source", "start"), ("from {v}",), draw_city),
    ArgumentKind(("destination", "to_city", "target"), ("to {v}",), draw_city),
    ArgumentKind(
        ("name", "person", "user", "customer", "contact", "owner"),
        ("for {v}", "of {v}", "named {v}"),
        draw_person,
    ),
    ArgumentKind(
        ("day", "date", "weekday"), ("on {v}", "for {v}"), lambda rng: rng.choice(_DAYS), is_open=False
    ),
    ArgumentKind(
        ("id", "number", "order_id", "code", "ticket"),
        ("number {v}", "with number {v}", "{v}", "no. {v}"),
        draw_number,
    ),
    ArgumentKind(("people", "guests", "days", "hours", "minutes", "nights"), ("for {v} {p}",), draw_number),
    ArgumentKind(
        ("count", "amount", "quantity", "limit", "level", "size"),
        ("with {p} {v}", "with a {p} of {v}"),
        draw_number,
    ),
    ArgumentKind(
        ("query", "topic", "keyword", "title", "item", "product", "text"),
        ("about {v}", 'about "{v}"'),
        draw_text,
    ),
    ArgumentKind(
        ("unit", "currency", "language"),
        ("in {v}", "in {p} {v}"),
        lambda rng: rng.choice(_UNITS),
        is_open=False,
    ),
)


def draw_value(rng: Random, kind: ArgumentKind, held_out: bool) -> Value:
    """Draw a value of the wanted side of the split; values of kinds that are not open are on both."""
    return draw_from_side(rng, kind.draw, held_out) if kind.is_open else kind.draw(rng)


def draw_from_side(rng: Random, draw: Callable[[Random], Value], held_out: bool) -> Value:
    """Draw until a value is of the wanted side of the split."""
    while True:
        value = draw(rng)
        if is_held_out("value", str(value).lower()) == held_out:
            return value
