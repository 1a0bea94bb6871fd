"""A tiny stand-in for the engine: runs token sequences through a Transformer with a paged cache."""

from __future__ import annotations

import random
from collections.abc import Sequence

import torch
from torch import Tensor

from gptoss_ray.kvcache.kv_cache import KVCache
from gptoss_ray.model.forward_batch import ForwardBatch
from gptoss_ray.model.transformer import Transformer

Piece = tuple[int, int, int]
"""(sequence, first position, end position)"""


class PagedSequences:
    """Token sequences with scattered blocks of their own; `run` feeds any pieces of them in one step."""

    def __init__(
        self,
        transformer: Transformer,
        sequences: Sequence[Sequence[int]],
        *,
        block_size: int = 16,
        seed: int = 0,
    ) -> None:
        self.transformer = transformer
        self.sequences = [torch.tensor(tokens) for tokens in sequences]
        self.block_size = block_size
        num_blocks = [-(-len(tokens) // block_size) for tokens in sequences]
        ids = list(range(2 * sum(num_blocks) + 3))
        random.Random(seed).shuffle(ids)
        shape = (len(sequences), max(num_blocks))
        self.tables = [torch.full(shape, -1, dtype=torch.int32) for _ in range(2)]
        for table in self.tables:
            for row, count in enumerate(num_blocks):
                table[row, :count] = torch.tensor([ids.pop() for _ in range(count)], dtype=torch.int32)
        config = transformer.config
        self.kv_cache = KVCache(
            2 * sum(num_blocks) + 3,
            block_size,
            config.num_key_value_heads,
            config.head_dim,
            config.layer_types,
            transformer.dtype,
        )

    def batch(self, pieces: Sequence[Piece]) -> ForwardBatch:
        """The batch of the pieces, one after another, with logits of every token."""
        rows = [(s, p) for s, start, end in pieces for p in range(start, end)]
        sequence_index = torch.tensor([s for s, _ in rows], dtype=torch.int64)
        positions = torch.tensor([p for _, p in rows], dtype=torch.int64)
        slots = [
            table[sequence_index, positions // self.block_size].long() * self.block_size
            + positions % self.block_size
            for table in self.tables
        ]
        return ForwardBatch(
            token_ids=torch.tensor([int(self.sequences[s][p]) for s, p in rows], dtype=torch.int64),
            positions=positions,
            sequence_index=sequence_index,
            slot_mapping_full=slots[0],
            slot_mapping_window=slots[1],
            block_tables_full=self.tables[0],
            block_tables_window=self.tables[1],
            logits_rows=torch.arange(len(rows)),
        )

    def run(self, pieces: Sequence[Piece]) -> Tensor:
        """One step; float32 logits of every token."""
        return self.transformer.forward(self.batch(pieces), self.kv_cache)


def whole_logits(transformer: Transformer, tokens: Sequence[int], *, block_size: int = 16) -> Tensor:
    """Logits [len(tokens), V] of one sequence, alone and in one piece."""
    return PagedSequences(transformer, [tokens], block_size=block_size).run([(0, 0, len(tokens))])
