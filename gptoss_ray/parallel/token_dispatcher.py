"""Tokens to the ranks of their experts and back: the seam of every MoE layer.

`dispatch` and `combine` are coupled by a handle, so that an implementation can keep what it needs to
undo the exchange (permutations, split sizes, buffers). Both are collective: every rank of a group
calls them once a layer, also with no tokens.

Shapes: T tokens at home, k experts a token, d hidden size, N rows that arrived for the local experts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor


@dataclass(frozen=True)
class GroupedRows:
    """Rows for the local experts: rows [N, d], the local experts' rows one after another."""

    rows: Tensor
    num_rows_per_expert: list[int]


class DispatchHandle(Protocol):
    """What `combine` needs to bring the results of one `dispatch` home; opaque to the model."""


class TokenDispatcher(Protocol):
    """Sends token rows to the ranks of their experts and brings the results back."""

    def begin_step(self, max_num_tokens: int) -> None:
        """Prepare for a step in which no rank of the group has more than `max_num_tokens` tokens."""

    def dispatch(self, x: Tensor, expert_ids: Tensor) -> tuple[GroupedRows, DispatchHandle]:
        """Send x [T, d] to the experts expert_ids int64 [T, k]; returns what arrived here and the handle."""

    def combine(self, expert_out: Tensor, handle: DispatchHandle) -> Tensor:
        """Bring the local experts' outputs [N, d] home; returns what its tokens' experts made [T, k, d]."""
