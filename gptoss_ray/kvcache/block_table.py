"""The blocks that one sequence owns: a table for full layers and one for window layers."""

from __future__ import annotations

from array import array

from gptoss_ray.kvcache.block_pool import BlockPool
from gptoss_ray.kvcache.geometry import KVGeometry

FREED = -1


class BlockTable:
    """Block ids by absolute block number (position // block_size).

    Both tables have the same length; window entries that no later row can read are `FREED`.
    They are int32 arrays, so that a step copies them into its batch without a loop.
    """

    def __init__(self, pool: BlockPool, geometry: KVGeometry) -> None:
        self._pool = pool
        self._geometry = geometry
        self.full: array[int] = array("i")
        self.window: array[int] = array("i")
        self._first_window_block = 0

    def __len__(self) -> int:
        return len(self.full)

    @property
    def block_size(self) -> int:
        """Tokens a block."""
        return self._geometry.block_size

    @property
    def num_window_blocks(self) -> int:
        """Window blocks that are owned now."""
        return len(self.window) - self._first_window_block

    def num_blocks_missing(self, num_tokens: int) -> int:
        """Blocks that `extend` would allocate."""
        return 2 * max(0, self._geometry.num_blocks(num_tokens) - len(self))

    def num_blocks_still_needed(self, num_tokens: int) -> int:
        """Blocks to allocate until `num_tokens` are computed chunk by chunk, at the worst moment."""
        num_full = max(0, self._geometry.num_blocks(num_tokens) - len(self))
        peak = self._geometry.num_window_blocks_at_peak(num_tokens)
        return num_full + min(num_full, max(0, peak - self.num_window_blocks))

    def adopt(self, full: list[int], window: list[int]) -> None:
        """Share the published blocks of a prefix; the table is empty before.

        Args:
            full: Block ids from block 0 on.
            window: Block ids of the last window, ending at the same block as `full`.
        """
        for block_id in (*full, *window):
            self._pool.acquire(block_id)
        self._first_window_block = len(full) - len(window)
        self.full.extend(full)
        self.window.extend([FREED] * self._first_window_block + window)

    def extend(self, num_tokens: int) -> None:
        """Own blocks for the first `num_tokens` tokens; the caller has checked that they are free."""
        for _ in range(len(self), self._geometry.num_blocks(num_tokens)):
            self.full.append(self._pool.allocate())
            self.window.append(self._pool.allocate())

    def slide_window(self, next_position: int) -> None:
        """Free the window blocks that a row at `next_position`, or any later one, cannot read."""
        first = min(self._geometry.first_window_block(next_position), len(self.window))
        for number in range(self._first_window_block, first):
            self._pool.release(self.window[number])
            self.window[number] = FREED
        self._first_window_block = max(self._first_window_block, first)

    def release(self) -> None:
        """Free everything, last block first: a prefix is of use without its tail, not the reverse."""
        for number in range(self._first_window_block, len(self.window)):
            self._pool.release(self.window[number])
        for block_id in reversed(self.full):
            self._pool.release(block_id)
        self.full = array("i")
        self.window = array("i")
        self._first_window_block = 0
