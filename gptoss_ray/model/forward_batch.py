"""ForwardBatch: everything the network must know about the tokens of one step."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class ForwardBatch:
    """T tokens of S sequences; T may be 0 (idle batch). A sequence's tokens need not be adjacent.

    Attributes:
        token_ids: int64 [T].
        positions: int64 [T], from 0 in each sequence.
        sequence_index: int64 [T], the token's row of the block tables.
        slot_mapping_full: int64 [T], where full layers write K and V: block id · block size + offset.
        slot_mapping_window: int64 [T], the same for sliding-window layers.
        block_tables_full: int32 [S, B], block ids by position // block size; -1 where there is none.
        block_tables_window: int32 [S, B], the same for sliding-window layers; -1 also where freed.
        logits_rows: int64 [L], the tokens whose logits are wanted.
        max_num_tokens: At least T of every rank of the group in this step, equal on all; None: this rank is
            alone.
        is_token: bool [T], which rows are tokens; the others fill up a shape, and no rank works out what the
            experts make of them. None: all are.
    """

    token_ids: Tensor
    positions: Tensor
    sequence_index: Tensor
    slot_mapping_full: Tensor
    slot_mapping_window: Tensor
    block_tables_full: Tensor
    block_tables_window: Tensor
    logits_rows: Tensor
    max_num_tokens: int | None = None
    is_token: Tensor | None = None

    @property
    def num_tokens(self) -> int:
        """T."""
        return self.token_ids.shape[0]

    def to(self, device: torch.device) -> ForwardBatch:
        """Return the batch on a device, itself where it is there."""
        if self.token_ids.device == device:
            return self
        return replace(
            self,
            token_ids=self.token_ids.to(device),
            positions=self.positions.to(device),
            sequence_index=self.sequence_index.to(device),
            slot_mapping_full=self.slot_mapping_full.to(device),
            slot_mapping_window=self.slot_mapping_window.to(device),
            block_tables_full=self.block_tables_full.to(device),
            block_tables_window=self.block_tables_window.to(device),
            logits_rows=self.logits_rows.to(device),
            is_token=None if self.is_token is None else self.is_token.to(device),
        )
