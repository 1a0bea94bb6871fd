"""StepContext: what all layers of one forward pass share, worked out once."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from gptoss_ray.checkpoint.model_config import ModelConfig
from gptoss_ray.kernels.kernels import AttentionPlan, AttentionPlans, AttentionRows, HeadShape, Kernels
from gptoss_ray.kvcache.kv_cache import KVCache
from gptoss_ray.model.forward_batch import ForwardBatch
from gptoss_ray.model.rotary_embedding import RotaryEmbedding


@dataclass(frozen=True)
class StepContext:
    """The kernels, and the attention plans of one ForwardBatch over one KV cache.

    Attributes:
        kernels: All arithmetic.
        kv_cache: Read and written.
        plans: Of both kinds of layers.
    """

    kernels: Kernels
    kv_cache: KVCache
    plans: AttentionPlans

    @classmethod
    def of(
        cls,
        batch: ForwardBatch,
        kv_cache: KVCache,
        config: ModelConfig,
        rotary_embedding: RotaryEmbedding,
        kernels: Kernels,
    ) -> StepContext:
        """Work out the context of `batch`."""
        heads = HeadShape(config.num_attention_heads, config.num_key_value_heads, config.head_dim)
        cos, sin = rotary_embedding.rows(batch.positions)

        def plan(slot_mapping: Tensor, block_table: Tensor, window: int | None) -> AttentionPlan:
            rows = AttentionRows(
                positions=batch.positions,
                sequence_index=batch.sequence_index,
                slot_mapping=slot_mapping,
                block_table=block_table,
                cos=cos,
                sin=sin,
                window=window,
            )
            return kernels.plan_attention(rows, heads, kv_cache.block_size)

        plans = AttentionPlans(
            full=plan(batch.slot_mapping_full, batch.block_tables_full, None),
            sliding=plan(batch.slot_mapping_window, batch.block_tables_window, config.sliding_window),
        )
        return cls(kernels, kv_cache, plans)
