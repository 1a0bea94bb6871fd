"""Which prompts a rank, or a replica, has lately seen: a guess at what its prefix cache holds. Pure."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence


class PrefixIndex:
    """Hashes of blocks (`BlockHashes`); the ones unused for longest are forgotten.

    Args:
        max_blocks: How many are remembered.
    """

    def __init__(self, max_blocks: int) -> None:
        self._max_blocks = max_blocks
        self._blocks: OrderedDict[bytes, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._blocks)

    def num_leading(self, hashes: Sequence[bytes]) -> int:
        """Return how many of the first blocks are known without a gap."""
        for number, block_hash in enumerate(hashes):
            if block_hash not in self._blocks:
                return number
        return len(hashes)

    def add(self, hashes: Sequence[bytes]) -> None:
        """Remember the blocks of a prompt: first blocks longest, because nothing matches without them."""
        for block_hash in reversed(hashes):
            self._blocks[block_hash] = None
            self._blocks.move_to_end(block_hash)
        while len(self._blocks) > self._max_blocks:
            self._blocks.popitem(last=False)
