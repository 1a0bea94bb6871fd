"""Drafts by prompt look-up: what came after the last tokens when they stood in the text before.

Saxena 2023 (prompt lookup decoding). Answers repeat their prompt where they quote, edit or summarize it, and
themselves in code, tables and JSON.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence as ReadOnlySequence
from itertools import islice
from weakref import WeakKeyDictionary

from gptoss_ray.engine.draft import Draft
from gptoss_ray.engine.sequence import Sequence

MIN_MATCH = 3
"""Tokens before the place that have to be equal. Fewer are met by chance."""
MAX_MATCH = 16
"""Longer matches are as good as this."""
MAX_CANDIDATES = 16
"""Earlier places that are looked at, the latest first."""
MAX_READ = 4096
"""Tokens that a look-up adds to the index: a long prompt is read in several, so that no step waits for it."""

_NOWHERE = -1


class NgramIndex:
    """Where the last `MIN_MATCH` tokens of a growing text stood before: hash chains, as of LZ77.

    A look-up costs the same however long the text is.
    """

    def __init__(self) -> None:
        self._latest: dict[tuple[int, ...], int] = {}
        # Of each place with MIN_MATCH tokens before it: the place before with the same ones.
        self._earlier = array("i", [_NOWHERE] * MIN_MATCH)

    def read(self, token_ids: ReadOnlySequence[int], max_num_tokens: int = MAX_READ) -> bool:
        """Take in so many of the text's new tokens; whether that was all.

        Args:
            token_ids: The text of the calls before, with more behind it.
            max_num_tokens: Most to take in.
        """
        first = len(self._earlier)
        end = min(len(token_ids) + 1, first + max_num_tokens)
        new = token_ids[first - MIN_MATCH : end - 1]
        latest, earlier = self._latest, self._earlier
        windows = zip(*(islice(new, start, None) for start in range(MIN_MATCH)), strict=False)
        for place, key in enumerate(windows, first):
            earlier.append(latest.get(key, _NOWHERE))
            latest[key] = place
        return len(earlier) > len(token_ids)

    def find(self, token_ids: ReadOnlySequence[int]) -> int | None:
        """Return the earlier place with the longest equal text before it, the latest among equals.

        Args:
            token_ids: The text, all of it taken in.
        """
        end = len(token_ids)
        best, best_length = None, 0
        place = self._earlier[end] if end >= MIN_MATCH else _NOWHERE
        for _ in range(MAX_CANDIDATES):
            if place == _NOWHERE:
                break
            length = _match_length(token_ids, place, end)
            if length > best_length:
                best, best_length = place, length
            if best_length == MAX_MATCH:
                break
            place = self._earlier[place]
        return best


class NgramDrafter:
    """See `Drafter`; keeps an index for each sequence for as long as that lives."""

    def __init__(self) -> None:
        self._indices: WeakKeyDictionary[Sequence, NgramIndex] = WeakKeyDictionary()

    def propose(
        self, sequences: ReadOnlySequence[Sequence], max_lengths: ReadOnlySequence[int]
    ) -> list[Draft]:
        """See `Drafter`."""
        return [self._propose(*each) for each in zip(sequences, max_lengths, strict=True)]

    def _propose(self, sequence: Sequence, max_length: int) -> Draft:
        index = self._indices.get(sequence)
        if index is None:
            index = self._indices[sequence] = NgramIndex()
        if not index.read(sequence.token_ids) or max_length <= 0:
            return ()
        place = index.find(sequence.token_ids)
        return () if place is None else continuation(sequence.token_ids, place, max_length)


def continuation(token_ids: ReadOnlySequence[int], place: int, length: int) -> Draft:
    """Return `length` tokens from an earlier place on; where the text ends, they go on with themselves."""
    period = len(token_ids) - place
    found = token_ids[place : place + length]
    return tuple(found[number % period] for number in range(length))


def _match_length(token_ids: ReadOnlySequence[int], place: int, end: int) -> int:
    """How many tokens before two places are equal, MIN_MATCH to MAX_MATCH."""
    length = MIN_MATCH
    longest = min(MAX_MATCH, place)
    while length < longest and token_ids[place - length - 1] == token_ids[end - length - 1]:
        length += 1
    return length
