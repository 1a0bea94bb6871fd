"""Padded exchange, for decoding: every shape is known beforehand, so nobody asks how much will come.

Every rank sends every rank the same `max_num_tokens` rows, its tokens first; the receiver finds the
tokens that concern it by their expert ids. Results return in a slot of fixed place, [tokens, k, d] for
every pair of ranks, of which home reads those it asked for. Two collectives a layer, static addresses.
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
class PaddedHandle:
    """What undoes one padded dispatch.

    Attributes:
        slots: int64 [N], slot (row · k + choice) of every grouped row in what arrived.
        sources: int64 [T · k], where each choice of each token at home will find its result.
    """

    slots: Tensor
    sources: Tensor


class PaddedExchange:
    """Buffers and views for steps of one size.

    Args:
        rows: How a token travels.
        num_experts: E; as an id it marks the rows that are padding.
        world_size: Ranks of the group.
        max_num_tokens: Rows for every pair of ranks.
        device: Of the buffers.
    """

    def __init__(
        self,
        rows: TokenRowFormat,
        *,
        num_experts: int,
        world_size: int,
        max_num_tokens: int,
        device: torch.device,
    ) -> None:
        k, d = rows.experts_per_token, rows.hidden_size
        self._no_expert = num_experts
        self._counts = [max_num_tokens] * world_size
        self._slots_per_rank = max_num_tokens * k
        self._slot_positions = torch.arange(self._slots_per_rank, device=device)

        def empty(width: int) -> Tensor:
            return torch.empty(world_size * max_num_tokens, width, dtype=rows.dtype, device=device)

        # What no token fills is sent as it is and never read.
        self._sent_rows, self._received_rows = empty(rows.width), empty(rows.width)
        self._sent_results, self._received_results = empty(k * d), empty(k * d)
        by_rank = self._sent_rows.view(world_size, max_num_tokens, rows.width)
        self._sent_x, self._sent_ids = rows.activations(by_rank), rows.expert_ids(by_rank)
        self._received_x = rows.activations(self._received_rows)
        self._received_ids = rows.expert_ids(self._received_rows.view(world_size, max_num_tokens, rows.width))
        self._sent_slots = self._sent_results.view(world_size * self._slots_per_rank, d)
        self._received_slots = self._received_results.view(world_size * self._slots_per_rank, d)
        self._result_shape = (k, d)

    def dispatch(
        self, collectives: AllToAll, x: Tensor, expert_ids: Tensor, routes: ExpertRoutes
    ) -> tuple[GroupedRows, PaddedHandle]:
        """Send x [T, d] with expert_ids int64 [T, k] to every rank; returns what concerns this one."""
        num_tokens = len(x)
        self._sent_x[:, :num_tokens] = x
        self._sent_ids[:, :num_tokens] = expert_ids
        self._sent_ids[:, num_tokens:].fill_(self._no_expert)
        collectives.all_to_all(self._sent_rows, self._counts, self._counts, out=self._received_rows)
        local_indices = routes.local_indices.gather(1, self._received_ids.flatten(1))
        grouped, slots = routes.group(self._received_x, local_indices.view(-1, expert_ids.shape[1]))
        sources = routes.destinations.index_select(0, expert_ids.flatten())
        sources.mul_(self._slots_per_rank).add_(self._slot_positions[: expert_ids.numel()])
        return grouped, PaddedHandle(slots, sources)

    def combine(self, collectives: AllToAll, expert_out: Tensor, handle: DispatchHandle) -> Tensor:
        """Return every rank's results [N, d] to the homes; this one's are [T, k, d]."""
        assert isinstance(handle, PaddedHandle)
        self._sent_slots.index_copy_(0, handle.slots, expert_out)
        collectives.all_to_all(self._sent_results, self._counts, self._counts, out=self._received_results)
        return self._received_slots.index_select(0, handle.sources).view(-1, *self._result_shape)
