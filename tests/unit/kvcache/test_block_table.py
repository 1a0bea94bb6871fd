from __future__ import annotations

from gptoss_ray.kvcache.block_pool import BlockPool
from gptoss_ray.kvcache.block_table import FREED, BlockTable
from gptoss_ray.kvcache.geometry import KVGeometry
from tests.support.engine_invariants import check_pool

GEOMETRY = KVGeometry(block_size=4, window=6, max_chunk=8)


def test_extending_owns_one_block_per_group_for_each_new_block_of_tokens():
    pool = BlockPool(20)
    table = BlockTable(pool, GEOMETRY)
    assert table.num_blocks_missing(9) == 6
    table.extend(9)
    table.extend(12)
    assert len(table.full) == len(table.window) == 3
    assert len({*table.full, *table.window}) == 6
    assert table.num_blocks_missing(12) == 0


def test_sliding_frees_exactly_the_window_blocks_that_no_later_row_reads():
    pool = BlockPool(40)
    table = BlockTable(pool, GEOMETRY)
    table.extend(40)
    full = list(table.full)
    for next_position in range(41):
        table.slide_window(next_position)
        first_key = max(0, next_position - 5)
        is_freed = [block_id == FREED for block_id in table.window]
        assert is_freed == [4 * number + 3 < first_key for number in range(10)]
        assert table.num_window_blocks == is_freed.count(False)
        check_pool(pool)
    assert list(table.full) == full


def test_releasing_returns_every_block_once():
    pool = BlockPool(40)
    table = BlockTable(pool, GEOMETRY)
    table.extend(40)
    table.slide_window(23)
    table.release()
    assert pool.num_free == 40
    assert len(table) == 0
    check_pool(pool)


def test_what_is_still_needed_bounds_what_chunk_by_chunk_work_allocates():
    for num_tokens in range(1, 60):
        pool = BlockPool(40)
        table = BlockTable(pool, GEOMETRY)
        num_needed = table.num_blocks_still_needed(num_tokens)
        for start in range(0, num_tokens, 8):
            end = min(num_tokens, start + 8)
            table.extend(end)
            assert 40 - pool.num_free <= num_needed
            table.slide_window(end)
        table.release()


def test_an_adopted_prefix_is_shared_and_given_back():
    pool = BlockPool(40)
    owner = BlockTable(pool, GEOMETRY)
    owner.extend(16)
    for block_id in (*owner.full, *owner.window):
        pool.publish(block_id, b"%d" % block_id, keep=True)
    sharer = BlockTable(pool, GEOMETRY)
    sharer.adopt(list(owner.full), list(owner.window[2:]))
    assert list(sharer.window[:2]) == [FREED, FREED]
    owner.release()
    assert all(pool.num_references(block_id) == 1 for block_id in sharer.full)
    sharer.release()
    assert pool.num_free == 40
