"""A training batch: a tree of chats ("branches") packed without padding.

A chat attends to its prefix (system message, then developer message) and to itself; so each part of a prefix
is computed once for all chats behind it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

GROUP_SIZE = 8
IGNORED = -100
"""Target of rows that only fill up the batch (the default of `cross_entropy`)."""


@dataclass(frozen=True)
class Branch:
    """One chat behind the parts of a prefix: `num_prompt_tokens` of `tokens` are given, the rest is learned.

    `given` holds indices of further tokens that are given, because nothing foretells them.
    """

    prefix: tuple[tuple[int, ...], ...]
    tokens: tuple[int, ...]
    num_prompt_tokens: int
    skill: str = ""
    given: frozenset[int] = frozenset()


@dataclass(frozen=True)
class AttentionGroup:
    """Rows of similar length that attend together.

    Attributes:
        query_rows: [B, L] index into the batch's tokens; T where there is none.
        key_rows: [B, K] likewise: what came before and the queries' own rows.
    """

    query_rows: Tensor
    key_rows: Tensor


@dataclass(frozen=True)
class PackedBatch:
    """Prefixes, then branches, in one row of T tokens.

    Attributes:
        token_ids: [T].
        positions: [T]; a branch goes on where its prefix ends, and so does each part of a prefix.
        groups: Every token is a query of exactly one group.
        prediction_rows: [N] rows whose next token is to be learned.
        targets: [N] those next tokens.
    """

    token_ids: Tensor
    positions: Tensor
    groups: tuple[AttentionGroup, ...]
    prediction_rows: Tensor
    targets: Tensor

    @staticmethod
    def pack(branches: Sequence[Branch]) -> PackedBatch:
        """Pack the branches; equal prefixes are stored once. Sizes are rounded up, see `_round_up`."""
        token_ids: list[int] = []
        positions: list[int] = []
        prediction_rows: list[int] = []
        targets: list[int] = []

        def append(tokens: Sequence[int], before: Sequence[range]) -> _Span:
            start = len(token_ids)
            first = sum(map(len, before))
            token_ids.extend(tokens)
            positions.extend(range(first, first + len(tokens)))
            return _Span(tuple(before), range(start, start + len(tokens)))

        prefixes: dict[tuple[tuple[int, ...], ...], _Span] = {(): _Span((), range(0))}
        for branch in branches:
            for length, tokens in enumerate(branch.prefix):
                if branch.prefix[: length + 1] not in prefixes:
                    parent = prefixes[branch.prefix[:length]]
                    prefixes[branch.prefix[: length + 1]] = append(tokens, parent.seen)
        spans: list[_Span] = []
        for branch in branches:
            spans.append(append(branch.tokens, prefixes[branch.prefix].seen))
            learned = [
                i for i in range(branch.num_prompt_tokens, len(branch.tokens)) if i not in branch.given
            ]
            prediction_rows += [spans[-1].own.start + i - 1 for i in learned]
            targets += [branch.tokens[i] for i in learned]
        num_rows = _round_up(len(token_ids), 256)
        token_ids += token_ids[: num_rows - len(token_ids)]
        positions += [0] * (num_rows - len(positions))
        num_missing = _round_up(len(targets), 256) - len(targets)
        groups = [
            _group([span for span in prefixes.values() if len(span.before) == depth and span.own], num_rows)
            for depth in range(max(len(span.before) for span in prefixes.values()) + 1)
        ]
        spans.sort(key=lambda span: len(span.own))
        for begin in range(0, len(spans), GROUP_SIZE):
            group = spans[begin : begin + GROUP_SIZE]
            groups.append(_group(group + [_NOTHING] * (GROUP_SIZE - len(group)), num_rows))
        return PackedBatch(
            token_ids=torch.tensor(token_ids),
            positions=torch.tensor(positions),
            groups=tuple(groups),
            prediction_rows=torch.tensor(prediction_rows + [0] * num_missing),
            targets=torch.tensor(targets + [IGNORED] * num_missing),
        )


def _round_up(size: int, multiple: int) -> int:
    """Few different sizes, because oneDNN compiles a kernel for every new one, which takes milliseconds."""
    return -(-size // multiple) * multiple


@dataclass(frozen=True)
class _Span:
    """Rows of a chat or of a part of a prefix, and of what came before."""

    before: tuple[range, ...]
    own: range

    @property
    def seen(self) -> tuple[range, ...]:
        return (*self.before, self.own) if self.own else self.before


_NOTHING = _Span((), range(0))


def _group(spans: Sequence[_Span], none: int) -> AttentionGroup:
    """Each part of what came before is padded apart, so that equal parts and own rows align."""
    own = _rows([span.own for span in spans], none)
    depth = max(len(span.before) for span in spans)
    parts = [(*span.before, *[range(0)] * (depth - len(span.before))) for span in spans]
    before = [_rows([part[level] for part in parts], none) for level in range(depth)]
    return AttentionGroup(own, torch.cat((*before, own), dim=1))


def _rows(spans: Sequence[range], none: int) -> Tensor:
    starts = torch.tensor([span.start for span in spans])[:, None]
    lengths = torch.tensor([len(span) for span in spans])[:, None]
    offsets = torch.arange(_round_up(int(lengths.max()), 32))
    return (starts + offsets).masked_fill(offsets >= lengths, none)
