from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from gptoss_ray.kvcache.block_pool import BlockPool
from tests.support.engine_invariants import check_pool


def publish_and_release(pool, key, *, keep=False):
    block_id = pool.allocate()
    pool.publish(block_id, key, keep=keep)
    pool.release(block_id)
    return block_id


def test_blank_blocks_are_taken_before_any_published_one():
    pool = BlockPool(3)
    cached = publish_and_release(pool, b"a")
    assert cached not in {pool.allocate(), pool.allocate()}
    assert pool.find(b"a") == cached


def test_spare_blocks_are_evicted_oldest_first_and_before_kept_ones():
    pool = BlockPool(3)
    blocks = [
        pool.allocate(),
        pool.allocate(),
        pool.allocate(),
    ]
    for block_id, key in zip(blocks, (b"kept", b"old", b"new"), strict=True):
        pool.publish(block_id, key, keep=key == b"kept")
        pool.release(block_id)
    assert [pool.allocate() for _ in range(3)] == [blocks[1], blocks[2], blocks[0]]
    assert pool.find(b"kept") is None


def test_using_a_cached_block_again_makes_it_the_last_to_be_evicted():
    pool = BlockPool(2)
    first, second = pool.allocate(), pool.allocate()
    for block_id, key in ((first, b"first"), (second, b"second")):
        pool.publish(block_id, key, keep=False)
        pool.release(block_id)
    pool.acquire(first)
    pool.release(first)
    assert pool.allocate() == second


def test_keep_moves_a_spare_block_behind_all_others():
    pool = BlockPool(2)
    blocks = [pool.allocate(), pool.allocate()]
    for block_id, key in zip(blocks, (b"a", b"b"), strict=True):
        pool.publish(block_id, key, keep=False)
        pool.release(block_id)
    pool.keep(b"a")
    pool.keep(b"nothing is published under this")
    assert pool.allocate() == blocks[1]


def test_an_owned_block_is_never_handed_out():
    pool = BlockPool(2)
    shared = pool.allocate()
    pool.publish(shared, b"a", keep=False)
    pool.acquire(shared)
    pool.release(shared)
    assert pool.num_free == 1
    assert pool.allocate() != shared


def test_the_first_block_published_under_a_key_stays_the_one():
    pool = BlockPool(2)
    first, second = pool.allocate(), pool.allocate()
    pool.publish(first, b"a", keep=False)
    pool.publish(second, b"a", keep=False)
    assert pool.find(b"a") == first
    pool.release(second)
    assert pool.allocate() == second


class PoolMachine(RuleBasedStateMachine):
    """Random owners over a small pool."""

    def __init__(self):
        super().__init__()
        self.pool = BlockPool(7)
        self.owned: list[int] = []

    @precondition(lambda self: self.pool.num_free)
    @rule()
    def allocate(self):
        block_id = self.pool.allocate()
        assert block_id not in self.owned
        self.owned.append(block_id)

    @precondition(lambda self: self.owned)
    @rule(data=st.data())
    def release(self, data):
        block_id = data.draw(st.sampled_from(self.owned))
        self.owned.remove(block_id)
        self.pool.release(block_id)

    @precondition(lambda self: self.owned)
    @rule(data=st.data(), key=st.sampled_from([b"a", b"b", b"c", b"d"]), keep=st.booleans())
    def publish(self, data, key, keep):
        block_id = data.draw(st.sampled_from(self.owned))
        if self.pool._key_of[block_id] is None:  # a complete block is published once
            self.pool.publish(block_id, key, keep=keep)

    @rule(key=st.sampled_from([b"a", b"b", b"c", b"d"]))
    def acquire_published(self, key):
        block_id = self.pool.find(key)
        if block_id is not None:
            self.pool.acquire(block_id)
            self.owned.append(block_id)

    @rule(key=st.sampled_from([b"a", b"b", b"c", b"d"]))
    def keep(self, key):
        self.pool.keep(key)

    @invariant()
    def blocks_are_accounted_for(self):
        check_pool(self.pool)
        for block_id in range(self.pool.num_blocks):
            assert self.pool.num_references(block_id) == self.owned.count(block_id)


TestPoolMachine = PoolMachine.TestCase
TestPoolMachine.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
