"""How a token travels: its activations and the ids of its experts, in one row."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

_ID_BYTES = 8


@dataclass(frozen=True)
class TokenRowFormat:
    """Layout of a row: the activations, then the ids as int64 on a boundary of 8 bytes.

    A row has the dtype of the activations, so that they are read in place; the ids are only carried in it,
    bit by bit.

    Attributes:
        hidden_size: d, activations of a token.
        experts_per_token: k.
        dtype: Of the activations.
    """

    hidden_size: int
    experts_per_token: int
    dtype: torch.dtype

    @property
    def width(self) -> int:
        """Elements of a row."""
        return self._ids_start + self.experts_per_token * _ID_BYTES // self.dtype.itemsize

    def activations(self, rows: Tensor) -> Tensor:
        """Return the part [..., d] of rows [..., width] that holds activations."""
        return rows[..., : self.hidden_size]

    def expert_ids(self, rows: Tensor) -> Tensor:
        """Return the part of rows [..., width] that holds ids, int64 [..., k]."""
        return rows[..., self._ids_start :].view(torch.int64)

    @property
    def _ids_start(self) -> int:
        activation_bytes = self.hidden_size * self.dtype.itemsize
        return -(-activation_bytes // _ID_BYTES) * _ID_BYTES // self.dtype.itemsize
