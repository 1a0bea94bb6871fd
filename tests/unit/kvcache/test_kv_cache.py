from __future__ import annotations

import pytest
import torch

from gptoss_ray.kvcache.kv_cache import KVCache, bytes_per_block

LAYER_TYPES = ("sliding_attention", "full_attention", "sliding_attention", "full_attention")


def make_cache(layer_types=LAYER_TYPES):
    return KVCache(6, 4, 2, 3, layer_types, torch.float32)


def test_layers_of_a_group_have_own_storage_and_groups_share_it():
    cache = make_cache()
    cache.keys(0)[0] = 1
    assert cache.keys(2).count_nonzero() == 0
    assert cache.keys(0).data_ptr() == cache.keys(1).data_ptr()
    assert cache.keys(2).data_ptr() == cache.keys(3).data_ptr()


def test_unwritten_slots_are_finite():
    cache = make_cache()
    assert cache.keys(0).isfinite().all()
    assert cache.values(3).isfinite().all()


@pytest.mark.parametrize("layer_types", [LAYER_TYPES, ("full_attention",) * 3])
def test_bytes_per_block_is_what_the_tensors_take(layer_types):
    cache = make_cache(layer_types)
    storages = {cache.keys(layer).data_ptr(): cache.keys(layer) for layer in range(len(layer_types))}
    num_bytes = 2 * sum(keys.numel() * keys.element_size() for keys in storages.values())
    assert 6 * bytes_per_block(4, 2, 3, layer_types, torch.float32) == num_bytes
