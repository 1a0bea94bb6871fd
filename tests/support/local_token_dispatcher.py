"""LocalTokenDispatcher: what groups of ranks are compared to."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gptoss_ray.parallel.token_dispatcher import DispatchHandle, GroupedRows


@dataclass(frozen=True)
class LocalDispatchHandle:
    """The slots (token · k + choice) in the order of their grouped rows, and the shape to restore."""

    slots: Tensor
    shape: tuple[int, int]


class LocalTokenDispatcher:
    """One rank holds every expert, in order of id: nothing travels, rows are only grouped."""

    def __init__(self, num_experts: int) -> None:
        self.num_experts = num_experts

    def begin_step(self, max_num_tokens: int, is_token: Tensor | None = None) -> None:
        """There is nobody to prepare for, and padding is computed like all else."""

    def dispatch(self, x: Tensor, expert_ids: Tensor) -> tuple[GroupedRows, LocalDispatchHandle]:
        """Group x [T, d] by expert, rows of an expert in token order."""
        num_tokens, experts_per_token = expert_ids.shape
        chosen = expert_ids.flatten()
        slots = chosen.argsort(stable=True)
        counts = chosen.bincount(minlength=self.num_experts).tolist()
        rows = x[slots // experts_per_token]
        return GroupedRows(rows, counts), LocalDispatchHandle(slots, (num_tokens, experts_per_token))

    def combine(self, expert_out: Tensor, handle: DispatchHandle) -> Tensor:
        """Undo the grouping."""
        assert isinstance(handle, LocalDispatchHandle)
        home = torch.empty_like(expert_out).index_copy_(0, handle.slots, expert_out)
        return home.view(*handle.shape, expert_out.shape[1])
