"""Padded exchange, for decoding: every shape is known beforehand, so nobody asks how much will come.

Every rank sends every rank the same `max_num_tokens` rows, its tokens first; the receiver finds the
tokens that concern it by their expert ids. Results return in a slot of fixed place, [tokens, k, d] for
every pair of ranks, of which home reads those it asked for. Two collectives a layer, static addresses.

Between the two a host reads how many rows each expert has got, unless the counts stay on the device: then all
slots are grouped, those of experts elsewhere behind the others, and nothing in a layer waits for the host.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from gptoss_ray.parallel.collectives import AllToAll
from gptoss_ray.parallel.expert_routes import ExpertRoutes
from gptoss_ray.parallel.padded_buffers import PaddedBuffers
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
    """Views of buffers for the layers of one step.

    Args:
        rows: How a token travels.
        buffers: Of the step's size.
        num_experts: E; as an id it marks the rows that are padding.
        is_token: bool [T], which rows at home are tokens, so that experts see no others; None: all.
        reads_counts: Whether the host reads how many rows the local experts have got; else they stay on the
            device (see `GroupedRows`).
    """

    def __init__(
        self,
        rows: TokenRowFormat,
        buffers: PaddedBuffers,
        *,
        num_experts: int,
        is_token: Tensor | None = None,
        reads_counts: bool = True,
    ) -> None:
        k, d = rows.experts_per_token, rows.hidden_size
        world_size, max_num_tokens = buffers.world_size, buffers.max_num_tokens
        self._buffers = buffers
        self._no_expert = num_experts
        self._is_token = is_token
        self._reads_counts = reads_counts
        self._counts = [max_num_tokens] * world_size
        self._slots_per_rank = max_num_tokens * k
        by_rank = buffers.sent_rows.view(world_size, max_num_tokens, rows.width)
        self._sent_x, self._sent_ids = rows.activations(by_rank), rows.expert_ids(by_rank)
        self._received_x = rows.activations(buffers.received_rows)
        self._received_ids = rows.expert_ids(
            buffers.received_rows.view(world_size, max_num_tokens, rows.width)
        )
        self._sent_slots = buffers.sent_results.view(world_size * self._slots_per_rank, d)
        self._received_slots = buffers.received_results.view(world_size * self._slots_per_rank, d)
        self._result_shape = (k, d)

    def dispatch(
        self, collectives: AllToAll, x: Tensor, expert_ids: Tensor, routes: ExpertRoutes
    ) -> tuple[GroupedRows, PaddedHandle]:
        """Send x [T, d] with expert_ids int64 [T, k] to every rank; returns what concerns this one."""
        num_tokens, buffers = len(x), self._buffers
        self._sent_x[:, :num_tokens] = x
        self._sent_ids[:, :num_tokens] = self._wanted(expert_ids)
        self._sent_ids[:, num_tokens:].fill_(self._no_expert)
        collectives.all_to_all(buffers.sent_rows, self._counts, self._counts, out=buffers.received_rows)
        local_indices = routes.local_indices.gather(1, self._received_ids.flatten(1))
        group = routes.group if self._reads_counts else routes.group_all
        grouped, slots = group(self._received_x, local_indices.view(-1, expert_ids.shape[1]))
        sources = routes.destinations.index_select(0, expert_ids.flatten())
        sources.mul_(self._slots_per_rank).add_(buffers.slot_positions[: expert_ids.numel()])
        return grouped, PaddedHandle(slots, sources)

    def combine(self, collectives: AllToAll, expert_out: Tensor, handle: DispatchHandle) -> Tensor:
        """Return every rank's results [N, d] to the homes; this one's are [T, k, d].

        What comes home for a row that is no token is whatever lay in its slots.
        """
        assert isinstance(handle, PaddedHandle)
        buffers = self._buffers
        self._sent_slots.index_copy_(0, handle.slots, expert_out)
        collectives.all_to_all(buffers.sent_results, self._counts, self._counts, out=buffers.received_results)
        return self._received_slots.index_select(0, handle.sources).view(-1, *self._result_shape)

    def _wanted(self, expert_ids: Tensor) -> Tensor:
        """Return the ids that travel."""
        if self._is_token is None:
            return expert_ids
        return expert_ids.masked_fill(~self._is_token[:, None], self._no_expert)
