"""Drafters that are right and wrong on purpose."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

Know = Callable[[object], tuple[int, ...]]
"""From a sequence to its whole output."""


class KnowingDrafter:
    """Knows what comes, and says it for a random number of tokens, then something else.

    Args:
        know: What it knows; as far as that goes, half of its drafts are right to the end.
        vocab_size: Of the wrong tokens.
    """

    def __init__(self, know: Know, vocab_size: int, seed: int = 0) -> None:
        self._know = know
        self._vocab_size = vocab_size
        self._random = random.Random(seed)

    def propose(self, sequences: Sequence, max_lengths: Sequence[int]) -> list[tuple[int, ...]]:
        return [self._propose(*each) for each in zip(sequences, max_lengths, strict=True)]

    def _propose(self, sequence, max_length: int) -> tuple[int, ...]:
        rest = self._know(sequence)[sequence.num_output_tokens :]
        draft = list(rest[: self._random.randint(0, max(0, max_length))])
        if self._random.random() < 0.5:
            num_right = self._random.randint(0, len(draft))
            draft[num_right:] = [self._random.randrange(self._vocab_size) for _ in draft[num_right:]]
        return tuple(draft)


def knowing(answers: dict[str, tuple[int, ...]], vocab_size: int, seed: int = 0) -> KnowingDrafter:
    """Knows the outputs of requests by their ids, and nothing of others."""
    return KnowingDrafter(lambda sequence: answers.get(sequence.request_id, ()), vocab_size, seed)
