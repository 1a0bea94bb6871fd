"""What one long sequence of the published 20b shape holds of the KV pool, as its scheduler runs it."""

from __future__ import annotations

import pytest
import torch

from gptoss_ray.checkpoint.model_config import ModelConfig
from gptoss_ray.config import EngineConfig
from gptoss_ray.engine.sampler import SampledToken
from gptoss_ray.engine.scheduler import Scheduler
from gptoss_ray.engine.sequence import Sequence
from gptoss_ray.generation import GenerationRequest, SamplingParams
from gptoss_ray.kvcache.block_pool import BlockPool
from gptoss_ray.kvcache.block_table import BlockTable
from gptoss_ray.kvcache.geometry import KVGeometry
from gptoss_ray.kvcache.kv_cache import KVCache, bytes_per_block
from gptoss_ray.kvcache.prefix_cache import PrefixCache

NUM_TOKENS = 32_768
MODEL = ModelConfig.published("gpt-oss-20b")
ENGINE = EngineConfig()
# Keys and values of every token in every layer, in bfloat16.
NAIVE_BYTES = 2 * NUM_TOKENS * MODEL.num_layers * MODEL.num_key_value_heads * MODEL.head_dim * 2
BLOCK_BYTES = bytes_per_block(
    ENGINE.kv_block_size, MODEL.num_key_value_heads, MODEL.head_dim, MODEL.layer_types, torch.bfloat16
)


def most_bytes_held(num_prompt_tokens, *, prefix_cache):
    """Bytes of owned blocks at the worst moment, from the first chunk to the last token of 32,768."""
    geometry = KVGeometry(ENGINE.kv_block_size, MODEL.sliding_window, ENGINE.max_num_batched_tokens)
    pool = BlockPool(2 * NUM_TOKENS // ENGINE.kv_block_size)
    scheduler = Scheduler(
        pool,
        PrefixCache(pool, geometry) if prefix_cache else None,
        max_num_sequences=ENGINE.max_num_sequences,
        max_num_batched_tokens=ENGINE.max_num_batched_tokens,
    )
    params = SamplingParams(max_tokens=NUM_TOKENS - num_prompt_tokens)
    request = GenerationRequest("long", tuple(range(num_prompt_tokens)), params)
    sequence = Sequence(request, BlockTable(pool, geometry), max_context=NUM_TOKENS)
    scheduler.add(sequence)
    most_blocks = 0
    while "long" in scheduler:
        plan = scheduler.schedule()
        most_blocks = max(most_blocks, pool.num_blocks - pool.num_free)
        scheduler.commit(plan, [(SampledToken(5),) for _ in plan.drawing_sequences()])
    assert sequence.num_tokens == NUM_TOKENS
    assert pool.num_free == pool.num_blocks
    return most_blocks * BLOCK_BYTES


def test_a_block_is_as_large_in_memory_as_it_is_counted():
    cache = KVCache(
        2,
        ENGINE.kv_block_size,
        MODEL.num_key_value_heads,
        MODEL.head_dim,
        MODEL.layer_types,
        torch.bfloat16,
    )
    tensors = {
        tensor.data_ptr(): tensor.nbytes
        for layer in range(MODEL.num_layers)
        for tensor in (cache.keys(layer), cache.values(layer))
    }
    assert sum(tensors.values()) == 2 * BLOCK_BYTES


@pytest.mark.parametrize("prefix_cache", [True, False])
@pytest.mark.parametrize("num_prompt_tokens", [NUM_TOKENS - 1, NUM_TOKENS - 600])
def test_a_sequence_of_32768_tokens_never_holds_more_than_55_percent_of_full_kv_in_every_layer(
    num_prompt_tokens, prefix_cache
):
    share = most_bytes_held(num_prompt_tokens, prefix_cache=prefix_cache) / NAIVE_BYTES
    assert 0.5 <= share <= 0.55
