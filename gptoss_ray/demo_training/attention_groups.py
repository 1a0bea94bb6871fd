"""Parts of a training batch that attend together, padded to one size.

One matrix product over many small parts is faster than many products, but padding is computed, too; so parts
of like length go together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import torch
from torch import Tensor

_MAX_PARTS = 8
_STEP = 32
_OVERHEAD = 40_000
"""What one more group costs, in pairs of a query and a key."""

_ALL = 1 << 30
"""A window that reaches everything."""


@dataclass(frozen=True)
class Part:
    """Rows of a chat or of a part of a prefix, and of what came before."""

    before: tuple[range, ...]
    own: range

    @property
    def seen(self) -> tuple[range, ...]:
        """What a part that follows has before it."""
        return (*self.before, self.own)

    @property
    def num_before(self) -> int:
        """Rows that came before."""
        return sum(map(len, self.before))

    def num_keys(self, window: int) -> int:
        """Rows that its queries see if each sees the last `window`, its own included."""
        return min(self.num_before, window - 1) + len(self.own)

    def keys(self, window: int) -> list[int]:
        """Those rows."""
        rows = list(chain.from_iterable(self.seen))
        return rows[len(rows) - self.num_keys(window) :]


@dataclass(frozen=True)
class AttentionGroup:
    """Rows of similar length that attend together; T, one more than the last, where there is none.

    Attributes:
        query_rows: [B, L] index into the batch's T tokens.
        key_rows: [B, K] likewise: what came before and the queries' own rows.
        near_key_rows: [B, K'] those of them that a sliding window reaches.
    """

    query_rows: Tensor
    key_rows: Tensor
    near_key_rows: Tensor

    @staticmethod
    def of(parts: Sequence[Part], window: int, none: int) -> AttentionGroup:
        """Pad the parts' rows with `none`."""
        return AttentionGroup(
            _padded([list(part.own) for part in parts], none),
            _padded([part.keys(_ALL) for part in parts], none),
            _padded([part.keys(window) for part in parts], none),
        )


def grouped(parts: Sequence[Part], window: int) -> list[list[Part]]:
    """Sort the parts by length and cut them into groups where that costs least (dynamic programming)."""
    ordered = sorted(parts, key=lambda part: len(part.own))
    best: list[tuple[int, int]] = [(0, 0)]
    for end in range(1, len(ordered) + 1):
        begins = range(max(0, end - _MAX_PARTS), end)
        best.append(min((best[begin][0] + _cost(ordered[begin:end], window), begin) for begin in begins))
    groups: list[list[Part]] = []
    end = len(ordered)
    while end:
        begin = best[end][1]
        groups.append(ordered[begin:end])
        end = begin
    return groups


def round_up(size: int, multiple: int) -> int:
    """Few different sizes, because oneDNN compiles a kernel for every new one, which takes milliseconds."""
    return -(-size // multiple) * multiple


def _cost(parts: Sequence[Part], window: int) -> int:
    """Pairs that a group computes in a full and in a sliding layer, and its overhead in both."""
    queries = round_up(max(len(part.own) for part in parts), _STEP)
    keys = sum(round_up(max(part.num_keys(reach) for part in parts), _STEP) for reach in (_ALL, window))
    return len(parts) * queries * keys + 2 * _OVERHEAD


def _padded(rows: Sequence[list[int]], none: int) -> Tensor:
    length = round_up(max(map(len, rows)), _STEP)
    return torch.tensor([part + [none] * (length - len(part)) for part in rows])
