"""PaddedBuffers: what a padded exchange sends and receives, at addresses that stay."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gptoss_ray.parallel.token_rows import TokenRowFormat


@dataclass(frozen=True)
class PaddedBuffers:
    """For R ranks and M tokens of each. Smaller steps use the first rows: graphs of all sizes share a memory.

    What no token fills is sent as it is and never read.

    Attributes:
        world_size: R.
        max_num_tokens: M.
        sent_rows: [R · M, row width], to each rank.
        received_rows: The same, from each rank.
        sent_results: [R · M, k · d], to each rank.
        received_results: The same, from each rank.
        slot_positions: int64 [M · k], 0, 1, 2 ...
    """

    world_size: int
    max_num_tokens: int
    sent_rows: Tensor
    received_rows: Tensor
    sent_results: Tensor
    received_results: Tensor
    slot_positions: Tensor

    @classmethod
    def of(
        cls, rows: TokenRowFormat, *, world_size: int, max_num_tokens: int, device: torch.device
    ) -> PaddedBuffers:
        """Allocate them, for tokens that travel as `rows`."""
        k, d = rows.experts_per_token, rows.hidden_size

        def empty(width: int) -> Tensor:
            return torch.empty(world_size * max_num_tokens, width, dtype=rows.dtype, device=device)

        return cls(
            world_size=world_size,
            max_num_tokens=max_num_tokens,
            sent_rows=empty(rows.width),
            received_rows=empty(rows.width),
            sent_results=empty(k * d),
            received_results=empty(k * d),
            slot_positions=torch.arange(max_num_tokens * k, device=device),
        )

    def of_step(self, max_num_tokens: int) -> PaddedBuffers:
        """Return those of a step of at most as many tokens, in the same memory."""
        assert max_num_tokens <= self.max_num_tokens
        num_rows = self.world_size * max_num_tokens
        num_slots = len(self.slot_positions) // max(1, self.max_num_tokens) * max_num_tokens
        return PaddedBuffers(
            world_size=self.world_size,
            max_num_tokens=max_num_tokens,
            sent_rows=self.sent_rows[:num_rows],
            received_rows=self.received_rows[:num_rows],
            sent_results=self.sent_results[:num_rows],
            received_results=self.received_results[:num_rows],
            slot_positions=self.slot_positions[:num_slots],
        )
