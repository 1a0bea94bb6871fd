"""A stand-in for the network whose logits depend on every token it should see, read through the KV cache.

It stores each token's id and position as its key. A row's logits are a hash of what it then reads back:
all tokens so far through the full layer's table, the last window through the window layer's table. A
wrong slot, a stale table or a block freed too early changes the tokens or fails an assertion.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from gptoss_ray.checkpoint.model_config import ModelConfig
from gptoss_ray.kernels.paged_attention import write_slots

WINDOW_LAYER, FULL_LAYER = 0, 1


@dataclass(frozen=True)
class FakeConfig:
    vocab_size: int = 97
    sliding_window: int = 20
    max_context: int = 400
    num_key_value_heads: int = 1
    head_dim: int = 2
    layer_types: tuple[str, ...] = ("sliding_attention", "full_attention")
    # What steps would cost, if they were of such a network:
    hidden_size: int = 8
    intermediate_size: int = 8
    num_layers: int = 2
    num_attention_heads: int = 1
    num_experts: int = 4
    num_experts_per_token: int = 2
    expert_format: str = "mxfp4"
    expected_experts = ModelConfig.expected_experts


class FakeTransformer:
    """Quacks like `Transformer`; counts forward passes; those in `failing`, or that see `poison`, fail."""

    dtype = torch.float32
    layers = ()
    exchange = None

    def __init__(self, config: FakeConfig | None = None) -> None:
        self.config = config or FakeConfig()
        self.embedding = torch.empty(0)
        self.num_forwards = 0
        self.batch_sizes: list[int] = []
        self.failing: set[int] = set()
        self.poison: int | None = None

    def forward(self, batch, kv_cache):
        self.num_forwards += 1
        self.batch_sizes.append(batch.num_tokens)
        stored = torch.stack((batch.token_ids, batch.positions), dim=-1).float()[:, None]
        for layer, slots in (
            (WINDOW_LAYER, batch.slot_mapping_window),
            (FULL_LAYER, batch.slot_mapping_full),
        ):
            write_slots(kv_cache.keys(layer), kv_cache.values(layer), slots, stored, -stored)
        if self.num_forwards in self.failing:
            raise RuntimeError("the forward pass failed")
        tables = (batch.block_tables_full.numpy(), batch.block_tables_window.numpy())
        # Every row reads, as in attention, though only some are asked for their logits.
        seen = [
            self._read(kv_cache, [table[index] for table in tables], position)
            for index, position in zip(batch.sequence_index.tolist(), batch.positions.tolist(), strict=True)
        ]
        if any(self.poison in tokens for tokens in seen):
            raise RuntimeError("the forward pass met poison")
        rows = [self._logits(seen[row]) for row in batch.logits_rows.tolist()]
        return torch.from_numpy(np.array(rows, dtype=np.float32).reshape(-1, self.config.vocab_size))

    def _read(self, kv_cache, tables, position: int) -> list[int]:
        """Token ids that the row at `position` sees, by the full and the window layer."""
        full, window = tables
        first_in_window = max(0, position - self.config.sliding_window + 1)
        return [
            *_gather(kv_cache, FULL_LAYER, full, 0, position),
            *_gather(kv_cache, WINDOW_LAYER, window, first_in_window, position),
        ]

    def _logits(self, seen: list[int]) -> np.ndarray:
        return np.random.default_rng(seen).standard_normal(self.config.vocab_size).astype(np.float32)


def _gather(kv_cache, layer: int, table: np.ndarray, first: int, last: int) -> list[int]:
    """Token ids at positions `first` to `last`, through a block table."""
    positions = np.arange(first, last + 1)
    block_ids, offsets = table[positions // kv_cache.block_size], positions % kv_cache.block_size
    assert (block_ids >= 0).all(), "a row reads a block that was freed"
    found = kv_cache.keys(layer).numpy()[block_ids, 0, offsets]
    assert (found[:, 1] == positions).all(), "a block holds other positions than its table says"
    values = kv_cache.values(layer).numpy()[block_ids, 0, offsets]
    assert (values == -found).all(), "keys and values were written to different slots"
    return found[:, 0].astype(int).tolist()
