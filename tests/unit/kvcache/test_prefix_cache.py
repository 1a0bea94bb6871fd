from __future__ import annotations

from gptoss_ray.kvcache.block_pool import BlockPool
from gptoss_ray.kvcache.block_table import BlockTable
from gptoss_ray.kvcache.geometry import KVGeometry
from gptoss_ray.kvcache.prefix_cache import KEPT_WINDOW_INTERVAL, BlockHashes, PrefixCache

GEOMETRY = KVGeometry(block_size=4, window=6, max_chunk=8)  # a row behind a block reads 2 window blocks


def hashes_of(token_ids, salt=""):
    return BlockHashes(salt, 4).of_complete_blocks(token_ids, len(token_ids))


def cache_prefix(num_tokens, num_blocks=60):
    """A pool where a sequence of tokens 0, 1, 2 … was published and released."""
    pool = BlockPool(num_blocks)
    cache = PrefixCache(pool, GEOMETRY)
    table = BlockTable(pool, GEOMETRY)
    table.extend(num_tokens)
    hashes = hashes_of(range(num_tokens))
    cache.publish(table, hashes, 0)
    full, window = list(table.full), list(table.window)
    table.slide_window(num_tokens)
    table.release()
    return pool, cache, hashes, full, window


def evict(pool, block_id):
    pool._queue(block_id).pop(block_id)
    pool._forget(block_id)
    pool._blank.append(block_id)


def test_a_hash_covers_all_tokens_before_it_and_the_salt():
    assert hashes_of(range(8)) == hashes_of(range(11))
    assert hashes_of(range(8))[1] != hashes_of([9, 1, 2, 3, 4, 5, 6, 7])[1]
    assert set(hashes_of(range(8), "a")).isdisjoint(hashes_of(range(8), "b"))


def test_hashes_grow_with_the_sequence_as_if_made_at_once():
    chain = BlockHashes("salt", 4)
    tokens = list(range(30))
    grown = [chain.of_complete_blocks(tokens[:end], end) for end in (3, 9, 21, 30)]
    assert grown[-1] == hashes_of(tokens, "salt")
    assert [len(hashes) for hashes in grown] == [0, 2, 5, 7]


def test_a_whole_cached_prefix_is_found_with_the_window_that_its_next_row_reads():
    _, cache, hashes, full, window = cache_prefix(20)
    assert cache.match(hashes) == (full, window[3:])
    assert cache.match(hashes[:1]) == (full[:1], window[:1])


def test_a_prefix_ends_where_tokens_differ():
    _, cache, _, full, window = cache_prefix(20)
    assert cache.match(hashes_of([*range(8), 99, *range(9, 20)])) == (full[:2], window[:2])
    assert cache.match(hashes_of([99, *range(1, 20)])) == ([], [])


def test_a_missing_full_block_cuts_the_prefix_there():
    pool, cache, hashes, full, window = cache_prefix(20)
    evict(pool, full[3])
    assert cache.match(hashes) == (full[:3], window[1:3])


def test_a_missing_window_block_moves_the_prefix_before_it():
    pool, cache, hashes, full, window = cache_prefix(20)
    evict(pool, window[3])
    assert cache.match(hashes) == (full[:3], window[1:3])
    evict(pool, window[1])
    assert cache.match(hashes) == (full[:1], window[:1])
    evict(pool, window[0])
    assert cache.match(hashes) == ([], [])


def test_an_old_window_block_is_not_needed():
    pool, cache, hashes, full, window = cache_prefix(20)
    evict(pool, window[0])
    evict(pool, window[2])
    assert cache.match(hashes) == (full, window[3:])


def test_kept_turn_ends_outlive_full_blocks_and_other_window_blocks_go_first():
    pool, cache, hashes, full, window = cache_prefix(20, num_blocks=10)
    cache.keep_window_before(hashes)
    evicted = [pool.allocate() for _ in range(10)]
    assert set(evicted[:3]) == set(window[:3])
    assert evicted[3:8] == full[::-1]
    assert evicted[8:] == window[3:]


def test_windows_at_wide_intervals_are_kept_as_long_as_full_blocks():
    num_tokens = KEPT_WINDOW_INTERVAL + 40
    num_blocks = 2 * num_tokens // 4
    pool, cache, hashes, _, window = cache_prefix(num_tokens, num_blocks)
    num_ordinary_window_blocks = len(window) - 2
    for _ in range(num_ordinary_window_blocks):
        pool.allocate()
    assert len(cache.match(hashes)[0]) == KEPT_WINDOW_INTERVAL // 4
