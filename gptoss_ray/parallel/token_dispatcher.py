"""Tokens to the ranks of their experts and back: the seam of every MoE layer.

`dispatch` and `combine` are coupled by a handle, so that an implementation can keep what it needs to
undo the exchange (permutations, split sizes, buffers). Both are collective: every rank of a group
calls them once a layer, also with no tokens.

Shapes: T tokens at home, k experts a token, d hidden size, N rows that arrived for the local experts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
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


@dataclass(frozen=True)
class LocalDispatchHandle:
    """Where each slot (token · k + choice) stands among the grouped rows, and the shape to restore."""

    places: Tensor
    num_tokens: int
    experts_per_token: int


class LocalTokenDispatcher:
    """One rank holds every expert, in order of id: nothing travels, rows are only grouped.

    Args:
        num_experts: Experts of a layer.
    """

    def __init__(self, num_experts: int) -> None:
        self.num_experts = num_experts

    def begin_step(self, max_num_tokens: int) -> None:
        """There is nobody to prepare for."""

    def dispatch(self, x: Tensor, expert_ids: Tensor) -> tuple[GroupedRows, LocalDispatchHandle]:
        """Group x [T, d] by expert, rows of an expert in token order."""
        num_tokens, experts_per_token = expert_ids.shape
        # numpy does these small sums in a fraction of torch's time, and every layer waits for them.
        flat = expert_ids.numpy(force=True).ravel()
        slots = flat.argsort(kind="stable")
        places = np.empty_like(slots)
        places[slots] = np.arange(len(slots))
        counts = np.bincount(flat, minlength=self.num_experts).tolist()
        rows = x.index_select(0, _tensor(slots // experts_per_token, x))
        return GroupedRows(rows, counts), LocalDispatchHandle(
            _tensor(places, x), num_tokens, experts_per_token
        )

    def combine(self, expert_out: Tensor, handle: DispatchHandle) -> Tensor:
        """Undo the grouping."""
        assert isinstance(handle, LocalDispatchHandle)
        home = expert_out.index_select(0, handle.places)
        return home.view(handle.num_tokens, handle.experts_per_token, expert_out.shape[1])


def _tensor(indices: npt.NDArray[np.int64], like: Tensor) -> Tensor:
    return torch.from_numpy(indices).to(like.device)
