"""How tokens map to blocks: pure arithmetic on the block size and the window."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class KVGeometry:
    """Block arithmetic of a model.

    Attributes:
        block_size: Tokens a block.
        window: Keys that a row of a window layer reads, its own included.
        max_chunk: Most tokens of one sequence in one step.
    """

    block_size: int
    window: int
    max_chunk: int

    def num_blocks(self, num_tokens: int) -> int:
        """Blocks that hold the first `num_tokens` tokens."""
        return -(-num_tokens // self.block_size)

    def first_window_block(self, position: int) -> int:
        """First block that a window-layer row at `position`, or any later one, can read."""
        return max(0, position - self.window + 1) // self.block_size

    def num_window_blocks_at_peak(self, num_tokens: int) -> int:
        """Most window blocks that a sequence of `num_tokens` holds at once, while a chunk is computed."""
        return min(self.num_blocks(num_tokens), self._most_window_blocks())

    def max_tokens_in(self, num_blocks: int) -> int:
        """Tokens of the longest sequence that fits alone in a pool of `num_blocks`."""
        return max(num_blocks // 2, num_blocks - self._most_window_blocks()) * self.block_size

    def _most_window_blocks(self) -> int:
        """Blocks under the rows of a whole chunk and the window before it, at the worst alignment."""
        num_positions = self.window - 1 + self.max_chunk
        return (num_positions - 2) // self.block_size + 2
