"""Which prompts a rank, or a replica, has lately seen: a guess at what its prefix cache holds. Pure."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from gptoss_ray.generation import GenerationRequest
from gptoss_ray.kvcache.prefix_cache import BlockHashes


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


def request_hashes(request: GenerationRequest, block_size: int, max_blocks: int) -> list[bytes]:
    """Return the hashes of a request's complete blocks, its output so far included, or of the first ones.

    Args:
        request: Its salt keeps tenants apart.
        block_size: Tokens in one block.
        max_blocks: No more than so many hashes.
    """
    token_ids = request.prompt_token_ids + request.emitted_token_ids
    num_hashed = min(len(token_ids), max_blocks * block_size)
    return BlockHashes(request.cache_salt, block_size).of_complete_blocks(token_ids, num_hashed)
