"""Gives sequences a past without reading it: keys and values are noise, so that a long context costs seconds.

How long a step takes depends on how many keys it reads, not on their values.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from gptoss_ray.kernels.paged_attention import write_slots
from gptoss_ray.kvcache.kv_cache import KVCache
from gptoss_ray.model.forward_batch import ForwardBatch
from gptoss_ray.model.transformer import Transformer


class ContextFiller(Transformer):
    """A network of the same shape and weights, whose forward pass only writes noise to the cache."""

    @classmethod
    def of(cls, transformer: Transformer) -> ContextFiller:
        """Return the filler that stands in for a network."""
        fields = (field.name for field in dataclasses.fields(transformer) if field.init)
        return cls(**{name: getattr(transformer, name) for name in fields})

    @torch.inference_mode()
    def forward(self, batch: ForwardBatch, kv_cache: KVCache) -> Tensor:
        """Fill the tokens' slots; logits [L, V] choose another token for each row.

        Streams that began with the same token would choose the same experts, and share their weights.
        """
        shape = (batch.num_tokens, self.config.num_key_value_heads, self.config.head_dim)
        generator = torch.Generator().manual_seed(int(batch.slot_mapping_full.sum() + batch.token_ids.sum()))
        noise = torch.randn(2, *shape, generator=generator).to(self.dtype)
        for layer in range(self.config.num_layers):
            is_sliding = self.config.is_sliding(layer)
            slots = batch.slot_mapping_window if is_sliding else batch.slot_mapping_full
            write_slots(kv_cache.keys(layer), kv_cache.values(layer), slots, noise[0], noise[1])
        logits = torch.zeros(batch.logits_rows.shape[0], self.config.vocab_size)
        chosen = torch.randperm(self.config.vocab_size, generator=generator)[: len(logits)]
        logits[torch.arange(len(logits)), chosen] = 1.0
        return logits
