"""Random text in which tokenisers tend to differ."""

from __future__ import annotations

from random import Random

_POOLS = (
    "abcdefghij klmnopqrstuvwxyz",
    "ABCDEFGH'sT'll",
    "éüßçñåøœ",
    "漢字あいうえおカタカナ한국어",
    "емирдом ελληνικά עברית العربية हिन्दी",
    "0123456789",
    " \n\t\r  ",
    "!?.,;:'\"-<|>{}[]/\\=#",
    "😀👩‍👧🇩🇪e\u0301",
)
_MARKUP = ("<|end|>", "<|start|>assistant", "<|channel|>final", "<|message|>", "<|call|>", "<|endoftext|>")


def random_text(random: Random, max_length: int = 60) -> str:
    """Return up to `max_length` pieces: characters of many scripts, and now and then written-out markup."""
    return "".join(_random_piece(random) for _ in range(random.randrange(max_length + 1)))


def _random_piece(random: Random) -> str:
    choice = random.random()
    if choice < 0.02:
        return random.choice(_MARKUP)
    if choice < 0.07:
        return chr(random.randrange(1, 0xD7FF))
    return random.choice(random.choice(_POOLS))
