"""Which rank of a group takes a request: the one that has least left to do for it. Pure."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Sequence

from gptoss_ray.kvcache.prefix_cache import BlockHashes

MAX_INDEXED_BLOCKS = 16_384
"""Prompt blocks remembered for each rank, half a million tokens at 32 a block; about 2 MiB."""

REQUEST_WORTH_TOKENS = 256
"""A live request on a rank weighs as much as so many prompt tokens that it would have to compute."""


class RankSelector:
    """Counts each rank's live requests and remembers which prompts it has lately seen.

    The index is a guess: a rank evicts blocks without telling. A wrong guess costs a prefill, no more.

    Args:
        num_ranks: Ranks to choose from.
        block_size: Tokens in one KV block.
        max_num_sequences: A rank with so many live requests lets further ones wait.
    """

    def __init__(self, num_ranks: int, block_size: int, max_num_sequences: int) -> None:
        self._block_size = block_size
        self._max_num_sequences = max_num_sequences
        self._num_live = [0] * num_ranks
        self._last_chosen_at = [0] * num_ranks
        self._num_chosen = 0
        self._indices = [_PrefixIndex() for _ in range(num_ranks)]

    @property
    def num_live(self) -> int:
        """Requests that are acquired and not yet released, over all ranks."""
        return sum(self._num_live)

    def acquire(self, token_ids: Sequence[int], salt: str = "", among: Collection[int] | None = None) -> int:
        """Return the rank for a request, and count it there until `release`.

        A rank at its limit is taken only when all are. Otherwise the fewest tokens to compute win, where live
        requests count too; among equals the rank that was chosen longest ago.

        Args:
            token_ids: Prompt, and output so far of a resumed request; empty where prefixes are not cached.
            salt: The request's `cache_salt`.
            among: Ranks to choose from; None: all.
        """
        hashes = BlockHashes(salt, self._block_size).of_complete_blocks(token_ids, len(token_ids))

        def cost(rank: int) -> tuple[bool, int, int]:
            num_live = self._num_live[rank]
            num_cached = self._indices[rank].num_leading(hashes) * self._block_size
            num_tokens = len(token_ids) - num_cached + num_live * REQUEST_WORTH_TOKENS
            return num_live >= self._max_num_sequences, num_tokens, self._last_chosen_at[rank]

        rank = min(range(len(self._num_live)) if among is None else among, key=cost)
        self._num_chosen += 1
        self._last_chosen_at[rank] = self._num_chosen
        self._num_live[rank] += 1
        self._indices[rank].add(hashes)
        return rank

    def release(self, rank: int) -> None:
        """Note that a request on this rank has ended."""
        assert self._num_live[rank] > 0, "a request is released once"
        self._num_live[rank] -= 1


class _PrefixIndex:
    """Hashes of the blocks that one rank has lately seen; the ones unused for longest are forgotten."""

    def __init__(self) -> None:
        self._blocks: OrderedDict[bytes, None] = OrderedDict()

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
        while len(self._blocks) > MAX_INDEXED_BLOCKS:
            self._blocks.popitem(last=False)
