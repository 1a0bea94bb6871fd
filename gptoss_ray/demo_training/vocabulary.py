"""The demo model's vocabulary: the first ranks of o200k, and harmony's control tokens behind them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from itertools import islice

from gptoss_ray.harmony.encoding import HarmonyEncoding
from gptoss_ray.harmony.vocabulary import SHIPPED_FILE, control_tokens, shipped_ranks

NUM_RANKS = 2048
NUM_IDS = 2080


def demo_encoding() -> HarmonyEncoding:
    """The encoding of the demo model."""
    return HarmonyEncoding(_ranks(), control_tokens(NUM_RANKS, NUM_IDS), source=SHIPPED_FILE)


@cache
def word_pieces() -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Tokens of lower-case letters: those that begin a word behind a space, and those that go on with one."""
    texts = [token.decode(errors="replace") for token in _ranks()]
    first = tuple(text[1:] for text in texts if re.fullmatch(" [a-z]{2,6}", text))
    later = tuple(text for text in texts if re.fullmatch("[a-z]{2,6}", text))
    return first, later


def _ranks() -> dict[bytes, int]:
    return dict(islice(shipped_ranks().items(), NUM_RANKS))


@dataclass(frozen=True)
class Landmarks:
    """What the initial weights know of the vocabulary.

    Attributes:
        function_mark: The token that ends `type` where a prompt defines a function.
        twins: Tokens that begin with a space, each with the token that does not and is the same otherwise.
    """

    function_mark: int
    twins: tuple[tuple[int, int], ...]


def landmarks(encoding: HarmonyEncoding) -> Landmarks:
    """The landmarks of an encoding."""
    ids = {encoding.token_bytes(token_id): token_id for token_id in range(encoding.num_ranks)}
    twins = ((ids[token], ids[token[1:]]) for token in ids if token[:1] == b" " and token[1:] in ids)
    return Landmarks(encoding.encode("type")[-1], tuple(twins))
