from __future__ import annotations

import pytest
import torch

from gptoss_ray.kvcache.kv_cache import KVCache, bytes_per_block

LAYER_TYPES = ("sliding_attention", "full_attention", "sliding_attention", "full_attention")


def make_cache(layer_types=LAYER_TYPES):
    return KVCache(6, 4, 2, 3, layer_types, torch.float32)


def test_what_is_written_to_slots_is_read_back_by_block_and_offset():
    cache = make_cache()
    k, v = torch.randn(3, 2, 3), torch.randn(3, 2, 3)
    cache.write(2, torch.tensor([5 * 4 + 1, 0, 2 * 4 + 3]), k, v)
    for token, (block_id, offset) in enumerate([(5, 1), (0, 0), (2, 3)]):
        assert cache.keys(2)[block_id, :, offset].equal(k[token])
        assert cache.values(2)[block_id, :, offset].equal(v[token])


def test_layers_of_a_group_have_own_storage_and_groups_share_it():
    cache = make_cache()
    k = torch.ones(1, 2, 3)
    cache.write(0, torch.tensor([0]), k, k)
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
