"""Measures the network alone: one forward pass of decode rows and of a prefill, without engine or server."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from gptoss_ray.checkpoint.reader import CheckpointReader
from gptoss_ray.config import EngineConfig
from gptoss_ray.kvcache.kv_cache import KVCache
from gptoss_ray.model.forward_batch import ForwardBatch
from gptoss_ray.model.transformer import Transformer


@dataclass(frozen=True)
class ForwardResult:
    """Seconds that passes of one kind took, and tokens in each."""

    kind: str
    num_tokens: int
    seconds: tuple[float, ...]

    def row(self) -> dict[str, float | int | str]:
        """Return the figures that are printed."""
        median = statistics.median(self.seconds)
        return {
            "pass": self.kind,
            "tokens": self.num_tokens,
            "best_ms": round(min(self.seconds) * 1e3, 2),
            "median_ms": round(median * 1e3, 2),
            "tokens_per_s": round(self.num_tokens / median, 1),
        }


def measure(
    checkpoint: str,
    *,
    decode_rows: Sequence[int] = (1, 8, 32, 64),
    prefill_tokens: int = 256,
    context: int = 256,
    block_size: int = 32,
    engine: EngineConfig | None = None,
    repeats: int = 20,
) -> list[ForwardResult]:
    """Time a prefill, and decode steps of so many sequences with `context` tokens each behind them."""
    transformer = Transformer.load(CheckpointReader.open(checkpoint), engine)
    config = transformer.config
    num_blocks = -(-max(context + 1, prefill_tokens) // block_size)
    num_sequences = max(decode_rows)
    kv_cache = KVCache(
        2 * num_sequences * num_blocks,
        block_size,
        config.num_key_value_heads,
        config.head_dim,
        config.layer_types,
        transformer.dtype,
    )
    tables = torch.arange(2 * num_sequences * num_blocks, dtype=torch.int32).view(
        2, num_sequences, num_blocks
    )
    generator = torch.Generator().manual_seed(0)

    def batch(sequences: range, start: int, end: int) -> ForwardBatch:
        positions = torch.arange(start, end).repeat(len(sequences))
        rows = torch.tensor(sequences).repeat_interleave(end - start)
        slots = tables[:, rows, positions // block_size] * block_size + positions % block_size
        return ForwardBatch(
            token_ids=torch.randint(config.vocab_size, (len(rows),), generator=generator),
            positions=positions,
            sequence_index=rows,
            slot_mapping_full=slots[0],
            slot_mapping_window=slots[1],
            block_tables_full=tables[0],
            block_tables_window=tables[1],
            logits_rows=torch.arange(1, len(sequences) + 1) * (end - start) - 1,
        )

    def timed(kind: str, measured: ForwardBatch) -> ForwardResult:
        seconds = []
        for _ in range(repeats):
            start = time.perf_counter()
            transformer.forward(measured, kv_cache)
            seconds.append(time.perf_counter() - start)
        return ForwardResult(kind, measured.num_tokens, tuple(seconds))

    for sequence in range(num_sequences):
        transformer.forward(batch(range(sequence, sequence + 1), 0, context), kv_cache)
    decodes = [
        timed(f"decode at {context}", batch(range(rows), context, context + 1)) for rows in decode_rows
    ]
    return [timed("prefill", batch(range(1), 0, prefill_tokens)), *decodes]
