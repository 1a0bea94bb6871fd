"""Which steps are recorded as graphs: pure decoding, padded to a few numbers of rows and of blocks.

No result depends on the padding (law 1): a row is computed alike beside any others, and columns of a block
table that no row looks at are not read. In a group all ranks have to agree on the rows, which decide how much
they exchange; the blocks are each rank's own affair.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

_STEPS = ((8, 1), (64, 8), (128, 16), (256, 32), (512, 64), (1 << 30, 128))
"""Up to so many rows, sizes lie so far apart: from 33 rows on, at most a fifth are padding."""
_SMALL = (1, 2, 4, 8)
_CONTEXTS = (2048, 16_384)
"""Of graphs, in tokens, besides the longest: a step copies the block tables of its graph's context."""


def row_counts(max_num_rows: int) -> tuple[int, ...]:
    """Return the numbers of rows for which there are graphs; the last is `max_num_rows`."""
    return tuple(_row_counts(max_num_rows))


def _row_counts(max_num_rows: int) -> Iterator[int]:
    yield from (count for count in _SMALL if count < max_num_rows)
    count = _SMALL[-1]
    while count < max_num_rows:
        count += next(step for end, step in _STEPS if count < end)
        yield min(count, max_num_rows)
    if max_num_rows <= _SMALL[-1]:
        yield max_num_rows


def block_counts(max_context: int, block_size: int) -> tuple[int, ...]:
    """Return the widths of block tables for which there are graphs; the last holds `max_context` tokens."""
    contexts = (*(context for context in _CONTEXTS if context < max_context), max_context)
    return tuple(-(-context // block_size) for context in contexts)


def rows_of_exchange(counts: Iterable[int], max_num_tokens: int) -> int:
    """Return for how many tokens of each rank the ranks of a group exchange rows in a step.

    As many as the smallest graph that holds them has, or, where none does, as many as there are. It follows
    from what was agreed on alone. So all ranks exchange alike, whether one replays a graph of so many rows or
    launches a step of its own shape kernel by kernel.

    Args:
        counts: See `row_counts`; equal on all ranks.
        max_num_tokens: Agreed on: no rank has more.
    """
    return smallest(counts, max_num_tokens) or max_num_tokens


def smallest(counts: Iterable[int], needed: int) -> int | None:
    """Return the first of ascending counts that is at least `needed`; None where none is."""
    return next((count for count in counts if count >= needed), None)
