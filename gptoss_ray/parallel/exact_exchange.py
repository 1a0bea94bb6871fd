"""Exact exchange, for prompts: ranks first tell each other how much will come, then send no row in vain.

A token travels once to each rank that serves any of its experts. Three collectives a layer: counts,
rows, results. Results need no labels: both sides know their order (home's tokens, then their choices).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gptoss_ray.parallel.collectives import AllToAll
from gptoss_ray.parallel.expert_routes import ExpertRoutes
from gptoss_ray.parallel.token_dispatcher import DispatchHandle, GroupedRows
from gptoss_ray.parallel.token_rows import TokenRowFormat


@dataclass(frozen=True)
class ExactHandle:
    """What undoes one exact dispatch.

    Attributes:
        slots: int64 [N], slot (row · k + choice) of every grouped row in what arrived.
        destinations: int64 [T · k], the rank that serves each choice of each token at home.
        num_results_sent: Results to return to each rank.
        num_results_received: Results to come from each rank.
    """

    slots: Tensor
    destinations: Tensor
    num_results_sent: list[int]
    num_results_received: list[int]


class ExactExchange:
    """Steps of any size.

    Args:
        rows: How a token travels.
        world_size: Ranks of the group.
        device: Of the tokens.
    """

    def __init__(self, rows: TokenRowFormat, *, world_size: int, device: torch.device) -> None:
        self._rows = rows
        self._world_size = world_size
        self._one_each = [1] * world_size
        self._ranks = torch.arange(world_size, device=device)

    def dispatch(
        self, collectives: AllToAll, x: Tensor, expert_ids: Tensor, routes: ExpertRoutes
    ) -> tuple[GroupedRows, ExactHandle]:
        """Send x [T, d] with expert_ids int64 [T, k] to the ranks of its experts; returns what came."""
        destinations = routes.destinations[expert_ids]
        num_choices = destinations.new_zeros(self._world_size, len(x))  # of each token on each rank
        num_choices.scatter_add_(0, destinations.t(), destinations.new_ones(1, 1).expand_as(destinations.t()))
        tokens_by_rank = num_choices.nonzero()[:, 1]

        # For each rank: rows, results that they will bring.
        sent = torch.stack((num_choices.count_nonzero(1), num_choices.sum(1)), dim=1)
        received = collectives.all_to_all(sent, self._one_each, self._one_each)
        rows_sent, results_received, rows_received, results_sent = torch.cat((sent, received), 1).t().tolist()

        arrived = x.new_empty(sum(rows_received), self._rows.width)
        collectives.all_to_all(
            self._pack(x, expert_ids, tokens_by_rank), rows_sent, rows_received, out=arrived
        )
        homes = self._ranks.repeat_interleave(received[:, 0], output_size=len(arrived))
        local_indices = routes.local_indices[homes[:, None], self._rows.expert_ids(arrived)]
        grouped, slots = routes.group(self._rows.activations(arrived), local_indices)
        return grouped, ExactHandle(slots, destinations.flatten(), results_sent, results_received)

    def combine(self, collectives: AllToAll, expert_out: Tensor, handle: DispatchHandle) -> Tensor:
        """Return every rank's results [N, d] to the homes; this one's are [T, k, d]."""
        assert isinstance(handle, ExactHandle)
        results = expert_out.index_select(0, handle.slots.argsort())
        received = expert_out.new_empty(len(handle.destinations), self._rows.hidden_size)
        collectives.all_to_all(results, handle.num_results_sent, handle.num_results_received, out=received)
        positions = handle.destinations.argsort(stable=True)
        home = torch.empty_like(received).index_copy_(0, positions, received)
        return home.view(-1, self._rows.experts_per_token, self._rows.hidden_size)

    def _pack(self, x: Tensor, expert_ids: Tensor, tokens: Tensor) -> Tensor:
        """Return the rows of `tokens`."""
        packed = x.new_empty(len(x), self._rows.width)
        self._rows.activations(packed)[:] = x
        self._rows.expert_ids(packed)[:] = expert_ids
        return packed.index_select(0, tokens)
