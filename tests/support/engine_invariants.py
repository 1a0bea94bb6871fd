"""What must hold of an engine's KV blocks between any two calls."""

from __future__ import annotations

from collections import Counter

from gptoss_ray.kvcache.block_table import FREED


def check_pool(pool) -> None:
    """Every block is free exactly once or owned, and keys and blocks point at each other."""
    free = [*pool._blank, *pool._spare, *pool._kept]
    assert len(free) == len(set(free)) == pool.num_free
    owned = {block_id for block_id in range(pool.num_blocks) if pool.num_references(block_id) > 0}
    assert owned.isdisjoint(free)
    assert len(owned) + len(free) == pool.num_blocks
    assert {block_id: key for key, block_id in pool._block_of.items()} == {
        block_id: key for block_id, key in enumerate(pool._key_of) if key is not None
    }
    assert all(pool._key_of[block_id] is None for block_id in pool._blank)
    assert all(pool._key_of[block_id] is not None for block_id in (*pool._spare, *pool._kept))


def check_engine(engine) -> None:
    """References are those of the running sequences' tables, and only complete blocks are shared."""
    pool, scheduler = engine._pool, engine._scheduler
    check_pool(pool)
    full, window = Counter(), Counter()
    for sequence in scheduler._running.values():
        blocks = sequence.blocks
        assert len(blocks.full) == len(blocks.window)
        assert len(blocks.full) * blocks.block_size >= sequence.num_computed_tokens
        full.update(blocks.full)
        owned_in_window = [block_id for block_id in blocks.window if block_id != FREED]
        window.update(owned_in_window)
        assert len(owned_in_window) == blocks.num_window_blocks
        first_read = max(0, sequence.num_computed_tokens - engine._geometry.window + 1) // blocks.block_size
        assert FREED not in blocks.window[first_read:]
    assert full.keys().isdisjoint(window.keys()), "a block belongs to both groups"
    for block_id in range(pool.num_blocks):
        num_owners = full[block_id] + window[block_id]
        assert pool.num_references(block_id) == num_owners
        assert num_owners <= 1 or pool._key_of[block_id] is not None, "an unpublished block is shared"
    for sequence in scheduler._waiting.values():
        assert len(sequence.blocks) == 0
        assert sequence.num_computed_tokens == 0
