"""Drafts: tokens that are guessed to come next, so that one step can check several of them.

A step computes a draft's tokens behind the sequence's last one and draws behind each, with the key, the
penalties and the grammar of that place (law 1). While what is drawn equals what was guessed, the next row
holds for the sequence, too; from the first difference on, rows are forgotten. So a draft can only save steps:
which tokens come out, and with which log probabilities, does not depend on it.
"""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Sequence as ReadOnlySequence
from types import MappingProxyType
from typing import Protocol

from gptoss_ray.engine.sequence import Sequence

Draft = tuple[int, ...]
"""Token ids guessed to follow a sequence's last token; empty: nothing is guessed."""

NO_DRAFTS: Mapping[Sequence, Draft] = MappingProxyType({})
"""Of a step that checks none."""


class Drafter(Protocol):
    """Guesses what comes next: from the text (`NgramDrafter`), or with a small network of its own."""

    def propose(
        self, sequences: ReadOnlySequence[Sequence], max_lengths: ReadOnlySequence[int]
    ) -> list[Draft]:
        """Return a draft for each sequence; between two steps, with no sequence changed.

        Args:
            sequences: That decode. What was computed of them, and their KV, is as `Sequence` says.
            max_lengths: Most tokens of each draft; 0: none is wanted.
        """
        ...
