"""PagedRows: a paged cache of several sequences, poisoned where no row may look, and batches of rows."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from gptoss_ray.kernels.kernels import AttentionRows, HeadShape

Row = tuple[int, int]
"""Sequence and position."""


class PagedRows:
    """qkv of every row of every sequence, and blocks for them in no order.

    Attributes:
        qkv: By row; before rotation.
        sinks: [heads].
    """

    def __init__(self, lengths: Sequence[int], heads: HeadShape, block_size: int, *, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.heads, self.block_size = heads, block_size
        self.lengths = list(lengths)
        counts = [-(-length // block_size) for length in lengths]
        self.num_blocks = sum(counts) + 3
        blocks = torch.randperm(self.num_blocks, generator=generator).tolist()
        self.table = torch.full((len(lengths), max(counts) + 1), -1, dtype=torch.int32)
        for row, count in enumerate(counts):
            self.table[row, :count] = torch.tensor([blocks.pop() for _ in range(count)])
        width = (heads.num_heads + 2 * heads.num_kv_heads) * heads.head_dim
        self.qkv = {
            (sequence, position): torch.randn(width, generator=generator).bfloat16()
            for sequence, length in enumerate(lengths)
            for position in range(length)
        }
        self.sinks = torch.randn(heads.num_heads, generator=generator)
        angles = torch.rand(max(lengths), heads.head_dim // 2, generator=generator) * 6.3
        self._cos, self._sin = angles.cos() * 1.3, angles.sin() * 1.3

    def cache(self, dtype: torch.dtype = torch.bfloat16) -> tuple[Tensor, Tensor]:
        """Return keys and values in which every slot holds no number."""
        shape = (self.num_blocks, self.heads.num_kv_heads, self.block_size, self.heads.head_dim)
        keys, values = (torch.full(shape, torch.nan).to(dtype) for _ in range(2))
        return keys, values

    def batch(self, rows: Sequence[Row], window: int | None) -> AttentionRows:
        """Return what kernels want to know of `rows`."""
        sequences = torch.tensor([row[0] for row in rows], dtype=torch.int64)
        positions = torch.tensor([row[1] for row in rows], dtype=torch.int64)
        slots = self.table[sequences, positions // self.block_size].long() * self.block_size
        slots += positions % self.block_size
        table = self.table
        if window is not None:  # blocks before every row's window have been freed
            table = table.clone()
            for sequence in range(len(self.lengths)):
                own = [position for row, position in rows if row == sequence]
                table[sequence, : max(0, min(own, default=0) - window + 1) // self.block_size] = -1
        return AttentionRows(
            positions, sequences, slots, table, self._cos[positions], self._sin[positions], window
        )

    def stacked(self, rows: Sequence[Row]) -> Tensor:
        """Return qkv [T, ...] of `rows`."""
        return torch.stack([self.qkv[row] for row in rows])

    def all_rows(self, sequence: int, start: int = 0, end: int | None = None) -> list[Row]:
        """Return the rows of a sequence from position `start` to before `end`."""
        return [(sequence, position) for position in range(self.lengths[sequence])[start:end]]
