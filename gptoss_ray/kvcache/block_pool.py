"""Which KV blocks are free, owned, or kept for reuse. Pure Python; knows no layers and no tokens.

A block is in exactly one of four states:

* **owned**: one or more sequences refer to it (a published block can be shared);
* **blank**: free, its content means nothing;
* **spare**: free but published under a key, first to be evicted;
* **kept**: free and published, evicted only after every blank and spare block, oldest first.
"""

from __future__ import annotations

from collections import OrderedDict

BlockKey = bytes


class BlockPool:
    """Reference counts, published keys and the order of eviction."""

    def __init__(self, num_blocks: int) -> None:
        self.num_blocks = num_blocks
        self._num_references = [0] * num_blocks
        self._key_of: list[BlockKey | None] = [None] * num_blocks
        self._block_of: dict[BlockKey, int] = {}
        self._is_kept = [False] * num_blocks
        self._blank = list(range(num_blocks - 1, -1, -1))
        self._spare: OrderedDict[int, None] = OrderedDict()
        self._kept: OrderedDict[int, None] = OrderedDict()

    @property
    def num_free(self) -> int:
        """Blocks that `allocate` can hand out, published ones included."""
        return len(self._blank) + len(self._spare) + len(self._kept)

    def num_references(self, block_id: int) -> int:
        """How many sequences own the block."""
        return self._num_references[block_id]

    def allocate(self) -> int:
        """Take a blank block, or evict the published one that is missed least; one reference.

        The caller makes sure that `num_free` is not 0.
        """
        if self._blank:
            block_id = self._blank.pop()
        else:
            block_id, _ = (self._spare or self._kept).popitem(last=False)
            self._forget(block_id)
        self._num_references[block_id] = 1
        return block_id

    def acquire(self, block_id: int) -> None:
        """Add a reference to a published block."""
        if self._num_references[block_id] == 0:
            self._queue(block_id).pop(block_id)
        self._num_references[block_id] += 1

    def release(self, block_id: int) -> None:
        """Drop a reference; without any, the block is free, and still found under its key."""
        assert self._num_references[block_id] > 0, f"block {block_id} was released twice"
        self._num_references[block_id] -= 1
        if self._num_references[block_id] > 0:
            return
        if self._key_of[block_id] is None:
            self._blank.append(block_id)
        else:
            self._queue(block_id)[block_id] = None

    def publish(self, block_id: int, key: BlockKey, *, keep: bool) -> None:
        """Make an owned block findable; the first block published under a key stays the one."""
        if key in self._block_of:
            return
        self._block_of[key] = block_id
        self._key_of[block_id] = key
        self._is_kept[block_id] = keep

    def find(self, key: BlockKey) -> int | None:
        """Return the block published under a key."""
        return self._block_of.get(key)

    def keep(self, key: BlockKey) -> None:
        """Move the block under a key, if it is still there, to the end of what is evicted."""
        block_id = self._block_of.get(key)
        if block_id is None:
            return
        if self._num_references[block_id] == 0:
            self._queue(block_id).pop(block_id)
            self._kept[block_id] = None
        self._is_kept[block_id] = True

    def _queue(self, block_id: int) -> OrderedDict[int, None]:
        return self._kept if self._is_kept[block_id] else self._spare

    def _forget(self, block_id: int) -> None:
        key = self._key_of[block_id]
        assert key is not None
        del self._block_of[key]
        self._key_of[block_id] = None
        self._is_kept[block_id] = False
