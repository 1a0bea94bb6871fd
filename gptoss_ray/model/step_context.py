"""StepContext: what all layers of one forward pass share, worked out once."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from gptoss_ray.checkpoint.model_config import ModelConfig
from gptoss_ray.kernels.attention_plan import AttentionPlan, plan_attention
from gptoss_ray.kernels.paged_attention import max_blocks_at_once
from gptoss_ray.kvcache.kv_cache import KVCache
from gptoss_ray.model.forward_batch import ForwardBatch
from gptoss_ray.model.rotary_embedding import RotaryEmbedding


@dataclass(frozen=True)
class LayerKindContext:
    """What the layers of one kind (full or sliding) share: where they write, and whom rows meet."""

    slot_mapping: Tensor
    plans: list[AttentionPlan]


@dataclass(frozen=True)
class StepContext:
    """Rotation, slots and attention plans of one ForwardBatch over one KV cache.

    Attributes:
        num_tokens: T; activations have further zero rows up to a whole tile.
        cos: float32 [T, 1, head_dim / 2].
        sin: float32 [T, 1, head_dim / 2].
        full: Of the layers that see everything.
        sliding: Of the layers that see a window.
        kv_cache: Read and written.
    """

    num_tokens: int
    cos: Tensor
    sin: Tensor
    full: LayerKindContext
    sliding: LayerKindContext
    kv_cache: KVCache

    @classmethod
    def of(
        cls, batch: ForwardBatch, kv_cache: KVCache, config: ModelConfig, rotary_embedding: RotaryEmbedding
    ) -> StepContext:
        """Work out the context of `batch`."""
        num_heads, num_kv_heads = config.num_attention_heads, config.num_key_value_heads
        max_blocks = max_blocks_at_once(kv_cache.block_size, num_kv_heads, num_heads, config.head_dim)

        def kind(slot_mapping: Tensor, block_tables: Tensor, window: int | None) -> LayerKindContext:
            plans = plan_attention(
                batch.positions,
                batch.sequence_index,
                block_tables,
                block_size=kv_cache.block_size,
                window=window,
                max_blocks=max_blocks,
            )
            return LayerKindContext(slot_mapping, plans)

        cos, sin = rotary_embedding.rows(batch.positions)
        return cls(
            num_tokens=batch.num_tokens,
            cos=cos,
            sin=sin,
            full=kind(batch.slot_mapping_full, batch.block_tables_full, None),
            sliding=kind(batch.slot_mapping_window, batch.block_tables_window, config.sliding_window),
            kv_cache=kv_cache,
        )
