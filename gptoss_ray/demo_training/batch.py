"""A training batch: a tree of chats ("branches") packed without padding.

A chat attends to its prefix (system message, then developer message) and to itself; so each part of a prefix
is computed once for all chats behind it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle, islice

import torch
from torch import Tensor

from gptoss_ray.demo_training.attention_groups import AttentionGroup, Part, grouped, round_up

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
    def pack(branches: Sequence[Branch], window: int) -> PackedBatch:
        """Pack the branches; equal prefixes are stored once. Sliding layers see the last `window` tokens."""
        token_ids: list[int] = []
        positions: list[int] = []
        prediction_rows: list[int] = []
        targets: list[int] = []

        def append(tokens: Sequence[int], before: tuple[range, ...]) -> Part:
            part = Part(before, range(len(token_ids), len(token_ids) + len(tokens)))
            token_ids.extend(tokens)
            positions.extend(range(part.num_before, part.num_before + len(tokens)))
            return part

        seen: dict[tuple[tuple[int, ...], ...], tuple[range, ...]] = {(): ()}
        parts: list[Part] = []
        for branch in branches:
            for length, tokens in enumerate(branch.prefix):
                if branch.prefix[: length + 1] not in seen:
                    parts.append(append(tokens, seen[branch.prefix[:length]]))
                    seen[branch.prefix[: length + 1]] = parts[-1].seen
        for branch in branches:
            parts.append(append(branch.tokens, seen[branch.prefix]))
            learned = [
                i for i in range(branch.num_prompt_tokens, len(branch.tokens)) if i not in branch.given
            ]
            prediction_rows += [parts[-1].own.start + i - 1 for i in learned]
            targets += [branch.tokens[i] for i in learned]
        num_rows = round_up(len(token_ids), 256)
        token_ids = list(islice(cycle(token_ids), num_rows))
        positions += [0] * (num_rows - len(positions))
        num_missing = round_up(len(targets), 256) - len(targets)
        return PackedBatch(
            token_ids=torch.tensor(token_ids),
            positions=torch.tensor(positions),
            groups=tuple(AttentionGroup.of(group, window, num_rows) for group in grouped(parts, window)),
            prediction_rows=torch.tensor(prediction_rows + [0] * num_missing),
            targets=torch.tensor(targets + [IGNORED] * num_missing),
        )
