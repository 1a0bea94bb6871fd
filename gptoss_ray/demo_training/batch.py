"""A training batch: chats ("branches") packed without padding, each behind one of a few shared prefixes.

A chat attends to its prefix (system and developer message) and to itself, so the prefix is computed once
for all chats behind it.
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
    """One chat behind a prefix; `num_prompt_tokens` of `tokens` are given, the rest is to be learned.

    `given` holds indices of further tokens that are given, because nothing foretells them.
    """

    prefix: tuple[int, ...]
    tokens: tuple[int, ...]
    num_prompt_tokens: int
    skill: str = ""
    given: frozenset[int] = frozenset()


@dataclass(frozen=True)
class AttentionGroup:
    """Rows of similar length that attend together.

    Attributes:
        query_rows: [B, L] index into the batch's tokens; T where there is none.
        key_rows: [B, K] likewise: a branch's prefix and the branch itself.
    """

    query_rows: Tensor
    key_rows: Tensor


@dataclass(frozen=True)
class PackedBatch:
    """Prefixes, then branches, in one row of T tokens.

    Attributes:
        token_ids: [T].
        positions: [T]; a branch goes on where its prefix ends.
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
        prefix_spans: dict[tuple[int, ...], range] = {}
        for prefix in dict.fromkeys(branch.prefix for branch in branches):
            prefix_spans[prefix] = range(len(token_ids), len(token_ids) + len(prefix))
            token_ids += prefix
            positions += range(len(prefix))
        spans: list[tuple[range, range]] = []
        for branch in branches:
            start = len(token_ids)
            spans.append((prefix_spans[branch.prefix], range(start, start + len(branch.tokens))))
            token_ids += branch.tokens
            positions += range(len(branch.prefix), len(branch.prefix) + len(branch.tokens))
            learned = [
                i for i in range(branch.num_prompt_tokens, len(branch.tokens)) if i not in branch.given
            ]
            prediction_rows += [start + i - 1 for i in learned]
            targets += [branch.tokens[i] for i in learned]
        num_rows = _round_up(len(token_ids), 256)
        token_ids += token_ids[: num_rows - len(token_ids)]
        positions += [0] * (num_rows - len(positions))
        num_missing = _round_up(len(targets), 256) - len(targets)
        spans.sort(key=lambda span: len(span[1]))
        nothing = range(0)
        groups = [_group([(nothing, span) for span in prefix_spans.values()], num_rows)]
        for begin in range(0, len(spans), GROUP_SIZE):
            group = spans[begin : begin + GROUP_SIZE]
            groups.append(_group(group + [(nothing, nothing)] * (GROUP_SIZE - len(group)), num_rows))
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


def _group(spans: Sequence[tuple[range, range]], none: int) -> AttentionGroup:
    """Group of (what was before, own tokens) spans; prefixes are padded apart, so that own tokens align."""
    own = _rows([span for _, span in spans], none)
    before = _rows([prefix for prefix, _ in spans], none)
    return AttentionGroup(own, torch.cat((before, own), dim=1))


def _rows(spans: Sequence[range], none: int) -> Tensor:
    starts = torch.tensor([span.start for span in spans])[:, None]
    lengths = torch.tensor([len(span) for span in spans])[:, None]
    offsets = torch.arange(_round_up(int(lengths.max()), 32))
    return (starts + offsets).masked_fill(offsets >= lengths, none)
