from __future__ import annotations

import pytest
import torch

from gptoss_ray.kvcache.kv_cache import KVCache

LAYERS = ["sliding_attention", "full_attention"]


def test_the_spare_block_lies_behind_those_of_the_pool():
    cache = KVCache(5, 4, 1, 2, LAYERS, torch.float32, has_spare_block=True)
    assert cache.num_blocks == cache.spare_block == 5
    assert cache.keys(0).shape == cache.values(1).shape == (6, 1, 4, 2)


def test_a_cache_has_none_unless_it_is_asked_for():
    cache = KVCache(5, 4, 1, 2, LAYERS, torch.float32)
    assert cache.keys(0).shape[0] == 5
    with pytest.raises(AssertionError, match="without a spare block"):
        _ = cache.spare_block
