"""Tokens to the ranks of their experts and back: the seam of every MoE layer.

`dispatch` and `combine` are coupled by a handle, so that an implementation can keep what it needs to
undo the exchange (permutations, split sizes, buffers). Both are collective: every rank of a group
calls them once a layer, also with no tokens.

Shapes: T tokens at home, k experts a token, d hidden size, N rows that arrived for the local experts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor


@dataclass(frozen=True)
class GroupedRows:
    """Rows for the local experts, one after another.

    Attributes:
        rows: [N, d].
        num_rows_per_expert: Of each local expert, N together; or int32 [local experts] on the device of the
            rows, where the host does not know them: then rows behind their sum are of no expert here.
    """

    rows: Tensor
    num_rows_per_expert: list[int] | Tensor


class DispatchHandle(Protocol):
    """What `combine` needs to bring the results of one `dispatch` home; opaque to the model."""


class StepExchange(Protocol):
    """What the tokens of all layers travel through, for who computes whole steps on a device."""

    def pads(self, max_num_tokens: int) -> bool:
        """Whether all shapes of a step are known that has no more tokens on any rank: a graph can hold it."""
        ...

    def wait(self, is_over: Callable[[], bool]) -> None:
        """See `StreamedAllToAll.wait`: of all that was exchanged in the step."""
        ...


class TokenDispatcher(Protocol):
    """Sends token rows to the ranks of their experts and brings the results back."""

    @property
    def exchange(self) -> StepExchange:
        """Shared with the dispatchers of the other layers."""
        ...

    def begin_step(self, max_num_tokens: int, is_token: Tensor | None = None) -> None:
        """Prepare for a step in which no rank of the group has more than `max_num_tokens` tokens.

        Args:
            max_num_tokens: Equal on all ranks.
            is_token: bool [T], which rows are tokens; the others go nowhere and come back as anything. None:
                all.
        """

    def dispatch(self, x: Tensor, expert_ids: Tensor) -> tuple[GroupedRows, DispatchHandle]:
        """Send x [T, d] to the experts expert_ids int64 [T, k]; returns what arrived here and the handle."""

    def combine(self, expert_out: Tensor, handle: DispatchHandle) -> Tensor:
        """Bring the local experts' outputs [N, d] home; returns what its tokens' experts made [T, k, d]."""
