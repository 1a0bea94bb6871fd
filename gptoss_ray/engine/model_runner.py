"""From a step plan to logits: builds the batch and runs the network on it."""

from __future__ import annotations

import numpy as np
import torch

from gptoss_ray.engine.step_plan import StepPlan
from gptoss_ray.kvcache.block_table import FREED
from gptoss_ray.kvcache.kv_cache import KVCache
from gptoss_ray.model.forward_batch import ForwardBatch
from gptoss_ray.model.transformer import Transformer

UNKNOWN = 0
"""In place of a token that the host does not know yet."""


class ModelRunner:
    """The network and its KV tensors.

    Attributes:
        transformer: May be replaced between two steps by one with the same shape.
    """

    def __init__(self, transformer: Transformer, kv_cache: KVCache) -> None:
        self.transformer = transformer
        self._kv_cache = kv_cache

    def run(self, plan: StepPlan, max_num_tokens: int) -> torch.Tensor:
        """Compute the plan's chunks, perhaps none; logits [L, vocab] float32.

        One row per drawing sequence and one more per token of its draft, then one per scored prompt token,
        chunk by chunk.

        Args:
            plan: Of this rank.
            max_num_tokens: At least the tokens of any rank's plan for this step.
        """
        batch = build_batch(plan, self._kv_cache.block_size, max_num_tokens)
        batch = batch.to(self._kv_cache.device)
        with torch.inference_mode():
            return self.transformer.forward(batch, self._kv_cache)


def build_batch(plan: StepPlan, block_size: int, max_num_tokens: int) -> ForwardBatch:
    """Lay a plan's chunks end to end (T tokens in all, S sequences).

    Only tables are per sequence; everything else is per token, so that the network needs no notion
    of prefill or decode. A plan without chunks gives an idle batch. A token that the step before has still
    to draw is `UNKNOWN`.
    """
    chunks = plan.chunks
    token_ids: list[int] = []
    for chunk in chunks:
        token_ids += chunk.sequence.token_ids[chunk.start : chunk.end]
        token_ids += [UNKNOWN] * (chunk.end - max(chunk.start, chunk.sequence.num_tokens))
        token_ids += chunk.draft
    num_rows = np.array([chunk.num_rows for chunk in chunks], dtype=np.int64)
    starts = np.array([chunk.start for chunk in chunks], dtype=np.int64)
    firsts = np.cumsum(num_rows) - num_rows
    sequence_index = np.repeat(np.arange(len(chunks)), num_rows)
    positions = np.arange(len(token_ids)) + np.repeat(starts - firsts, num_rows)

    shape = (len(chunks), max((len(chunk.sequence.blocks) for chunk in chunks), default=0))
    full = np.full(shape, FREED, dtype=np.int32)
    window = np.full(shape, FREED, dtype=np.int32)
    for row, chunk in enumerate(chunks):
        blocks = chunk.sequence.blocks
        full[row, : len(blocks)] = blocks.full
        window[row, : len(blocks)] = blocks.window
    at = (sequence_index, positions // block_size)
    offsets = positions % block_size
    of_chunks = list(zip(firsts.tolist(), chunks, strict=True))
    drawn = [
        row
        for first, chunk in of_chunks
        if chunk.draws_token
        for row in range(first + chunk.num_tokens - 1, first + chunk.num_rows)
    ]
    scored = [first + position - chunk.start for first, chunk in of_chunks for position in chunk.scored]
    logits_rows = np.array(drawn + scored, dtype=np.int64)
    return ForwardBatch(
        token_ids=torch.tensor(token_ids, dtype=torch.int64),
        positions=torch.from_numpy(positions),
        sequence_index=torch.from_numpy(sequence_index),
        slot_mapping_full=torch.from_numpy(full[at].astype(np.int64) * block_size + offsets),
        slot_mapping_window=torch.from_numpy(window[at].astype(np.int64) * block_size + offsets),
        block_tables_full=torch.from_numpy(full),
        block_tables_window=torch.from_numpy(window),
        logits_rows=torch.from_numpy(logits_rows),
        max_num_tokens=max_num_tokens,
    )
