"""ExpertRoutes: which rank serves each expert of a layer, as one rank needs to know it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gptoss_ray.parallel.token_dispatcher import GroupedRows


@dataclass(frozen=True)
class ExpertRoutes:
    """One layer's routes, seen from one rank.

    Where an expert has copies, which of them serves a token depends on the token's home alone. All ranks
    hold the choices of all homes, so an expert's global id is all that a token has to carry.

    Attributes:
        destinations: int64 [E], the rank that serves each expert to the tokens at home here.
        local_indices: int64 [ranks, E + 1], index here of an expert that a home's token names;
            `num_local_experts` where that home sends it elsewhere, and for E, which names no expert.
        num_local_experts: Experts on this rank.
    """

    destinations: Tensor
    local_indices: Tensor
    num_local_experts: int

    @classmethod
    def build(
        cls,
        destinations: Sequence[Sequence[int]],
        local_experts: Sequence[int],
        *,
        rank: int,
        device: torch.device,
    ) -> ExpertRoutes:
        """Tabulate `destinations[home][expert] = rank` for `rank`, whose i-th expert is local_experts[i]."""
        index_of = {expert: index for index, expert in enumerate(local_experts)}
        elsewhere = len(local_experts)
        indices = [
            [index_of[expert] if to == rank else elsewhere for expert, to in enumerate(choices)] + [elsewhere]
            for choices in destinations
        ]
        return cls(
            destinations=torch.tensor(destinations[rank], device=device),
            local_indices=torch.tensor(indices, device=device),
            num_local_experts=len(local_experts),
        )

    def group(self, rows: Tensor, local_indices: Tensor) -> tuple[GroupedRows, Tensor]:
        """Group the rows that arrived by local expert.

        Args:
            rows: [N, d].
            local_indices: int64 [N, k], looked up in `local_indices`.

        Returns:
            The grouped rows, an expert's in order of arrival, and the slot (row · k + choice) of each.
        """
        order, counts = self._order(local_indices)
        *num_rows_per_expert, num_elsewhere = counts.tolist()
        slots = order[: len(order) - num_elsewhere]
        return GroupedRows(rows.index_select(0, slots // local_indices.shape[1]), num_rows_per_expert), slots

    def group_all(self, rows: Tensor, local_indices: Tensor) -> tuple[GroupedRows, Tensor]:
        """Group as `group` does, but ask the device for no number: counts stay there, and every slot is in.

        Behind the local experts' rows come those of all slots that name an expert elsewhere or none.
        """
        order, counts = self._order(local_indices)
        num_rows_per_expert = counts[: self.num_local_experts].to(torch.int32)
        return GroupedRows(rows.index_select(0, order // local_indices.shape[1]), num_rows_per_expert), order

    def _order(self, local_indices: Tensor) -> tuple[Tensor, Tensor]:
        """Return the slots by local expert [N · k], those without one last, and how many each has."""
        experts = local_indices.flatten()
        counts = experts.new_zeros(self.num_local_experts + 1)
        counts.scatter_add_(0, experts, experts.new_ones(1).expand_as(experts))
        return experts.argsort(stable=True), counts
