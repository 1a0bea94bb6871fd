from __future__ import annotations

import random

import pytest
import torch

from gptoss_ray.checkpoint.model_config import ModelConfig
from gptoss_ray.checkpoint.synthetic import tiny_config
from gptoss_ray.kvcache import kv_cache
from gptoss_ray.kvcache.geometry import KVGeometry
from gptoss_ray.planner import kv


@pytest.mark.parametrize("seed", range(20))
def test_the_arithmetic_is_that_of_the_kv_cache(seed):
    rng = random.Random(seed)
    window, block_size, chunk = rng.randint(1, 200), rng.choice([16, 32, 64]), rng.randint(1, 600)
    model = tiny_config(num_layers=rng.randint(1, 7), sliding_window=window)
    for dtype in (torch.bfloat16, torch.float8_e4m3fn):
        cached = kv_cache.bytes_per_block(block_size, 2, 16, model.layer_types, dtype)
        assert kv.bytes_per_block(model, block_size, dtype.itemsize) == cached

    num_blocks, num_tokens = rng.randint(2, 300), rng.randint(1, 3000)
    longest = KVGeometry(block_size, window, chunk).max_tokens_in(num_blocks)
    assert kv.longest_sequence(model, block_size, num_blocks, chunk) == longest
    decoding = KVGeometry(block_size, window, 1)
    held = decoding.num_blocks(num_tokens) + decoding.num_window_blocks_at_peak(num_tokens)
    assert kv.blocks_per_sequence(model, block_size, num_tokens) == held


def test_window_layers_read_at_most_their_window():
    model = ModelConfig.published("gpt-oss-20b")
    per_layer_token = 2 * 8 * 64 * 2
    assert kv.read_bytes(model, 100, 2) == 24 * 100 * per_layer_token
    assert kv.read_bytes(model, 1000, 2) == 12 * (1000 + 128) * per_layer_token
