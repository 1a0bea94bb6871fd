"""Many ways to say one thing: patterns with alternatives, and the small habits of people who type."""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass
from functools import cached_property
from random import Random

from gptoss_ray.demo_training.split import is_held_out

_ALTERNATIVES = re.compile(r"\(([^()]*)\)")


def expand(pattern: str) -> list[str]:
    """All texts of a pattern: `(a|b) c(?|)` → `a c?`, `a c`, `b c?`, `b c`. Groups do not nest."""
    pieces = _ALTERNATIVES.split(pattern)
    choices = [piece.split("|") if i % 2 else [piece] for i, piece in enumerate(pieces)]
    return ["".join(choice) for choice in itertools.product(*choices)]


@dataclass(frozen=True)
class Wordings:
    """The wordings of one request, split into trained and held-out ones.

    A wording is held out by its words alone, so that case or a question mark cannot smuggle it into training.
    """

    kind: str
    patterns: tuple[str, ...]

    @cached_property
    def _split(self) -> tuple[tuple[tuple[str, ...], ...], tuple[str, ...]]:
        texts = [list(dict.fromkeys(expand(pattern))) for pattern in self.patterns]
        trained = [tuple(text for text in group if not is_held_out(self.kind, _key(text))) for group in texts]
        held_out = [text for group in texts for text in group if is_held_out(self.kind, _key(text))]
        return tuple(group for group in trained if group), tuple(held_out)

    def pick(self, rng: Random, *, held_out: bool) -> str:
        """Draw a wording of one side; trained ones evenly over patterns, then over a pattern's texts."""
        trained, kept = self._split
        return rng.choice(kept) if held_out else rng.choice(rng.choice(trained))

    def any(self, rng: Random) -> str:
        """Draw from both sides, for skills of which something else is held out."""
        return rng.choice(expand(rng.choice(self.patterns)))


def _key(text: str) -> str:
    return " ".join(re.findall(r"[a-z{}]+|[+-]", text.lower()))


_GREETINGS = (
    "Hi! ",
    "Hello! ",
    "Hi, ",
    "Hello, ",
    "Hey, ",
    "Good morning! ",
    "hi ",
    "hello ",
    "OK, ",
    "Ok. ",
    "Now, ",
)
_THANKS = (" Thanks!", " Thank you.", " please", ", please", ", please?", " thanks", " Please!")


def restyle(rng: Random, wording: str) -> str:
    """Apply the habits of typing: lower case, no final mark, a greeting, a please. Slots `{x}` survive."""
    text = wording
    if rng.random() < 0.3:
        text = text.rstrip("?.!") + rng.choice(("", "", "", " ?", "!", ".", "?", "??"))
    if rng.random() < 0.1 and text[-1] not in ")'\"":
        text = text.rstrip("?.!") + rng.choice(_THANKS)
    if rng.random() < 0.1:
        text = rng.choice(_GREETINGS) + text
    style = rng.random()
    if style < 0.15:
        text = text.lower()
    elif style < 0.25:
        text = text[0].lower() + text[1:]
    elif style < 0.27:
        text = re.sub(r"[a-z]+(?![^{]*})", lambda match: match.group().upper(), text)
    return text
