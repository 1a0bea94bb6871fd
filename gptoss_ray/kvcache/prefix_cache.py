"""Finding the KV of an equal prefix: chained block hashes over one pool.

The hash of a block covers all tokens before it, so equal hashes mean equal prefixes. SHA-256 makes
a collision, chosen or not, out of reach; the salt is the root of the chain, so that tenants never
share (nor probe for) each other's blocks. Full and window layers publish a block under own keys.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Sequence

from gptoss_ray.kvcache.block_pool import BlockKey, BlockPool
from gptoss_ray.kvcache.block_table import BlockTable
from gptoss_ray.kvcache.geometry import KVGeometry

# Window blocks of the last window before every so many tokens are kept as long as full blocks, so
# that prompts which share only a long beginning still meet a window to start from.
KEPT_WINDOW_INTERVAL = 1024


class BlockHashes:
    """The hash chain of one sequence's complete blocks, computed as far as it is asked for."""

    def __init__(self, salt: str, block_size: int) -> None:
        self._block_size = block_size
        self._last = hashlib.sha256(salt.encode("utf-8", "surrogatepass")).digest()
        self._hashes: list[bytes] = []

    def of_complete_blocks(self, token_ids: Sequence[int], num_tokens: int) -> list[bytes]:
        """Return the hashes of all blocks that are complete within the first `num_tokens` tokens."""
        num_complete = num_tokens // self._block_size
        for number in range(len(self._hashes), num_complete):
            start = number * self._block_size
            tokens = array("q", token_ids[start : start + self._block_size])
            self._last = hashlib.sha256(self._last + tokens.tobytes()).digest()
            self._hashes.append(self._last)
        return self._hashes[:num_complete]


class PrefixCache:
    """Looks up, publishes and keeps the blocks of prefixes."""

    def __init__(self, pool: BlockPool, geometry: KVGeometry) -> None:
        self._pool = pool
        self._geometry = geometry

    def match(self, hashes: Sequence[bytes]) -> tuple[list[int], list[int]]:
        """Return the blocks of the longest usable prefix: (full layers, last window of window layers).

        A prefix is usable when all its full-layer blocks and the window-layer blocks that its next
        row reads are published.
        """
        full = self._published_run(hashes)
        num_blocks = len(full)
        while num_blocks > 0:
            window: list[int] = []
            for number in self._last_window(num_blocks):
                block_id = self._pool.find(_window_key(hashes[number]))
                if block_id is None:
                    num_blocks = number  # every prefix from here to the one tried reads this block
                    break
                window.append(block_id)
            else:
                return full[:num_blocks], window
        return [], []

    def publish(self, table: BlockTable, hashes: Sequence[bytes], first: int) -> None:
        """Make the blocks from number `first` to the last hashed one findable."""
        for number in range(first, len(hashes)):
            self._pool.publish(table.full[number], _full_key(hashes[number]), keep=True)
            keep = self._is_before_interval(number)
            self._pool.publish(table.window[number], _window_key(hashes[number]), keep=keep)

    def keep_window_before(self, hashes: Sequence[bytes]) -> None:
        """Keep the window blocks that a row behind the last hashed block reads (a turn's end)."""
        for number in self._last_window(len(hashes)):
            self._pool.keep(_window_key(hashes[number]))

    def _published_run(self, hashes: Sequence[bytes]) -> list[int]:
        run: list[int] = []
        for block_hash in hashes:
            block_id = self._pool.find(_full_key(block_hash))
            if block_id is None:
                break
            run.append(block_id)
        return run

    def _last_window(self, num_blocks: int) -> range:
        """Numbers of the blocks that a window-layer row just behind `num_blocks` blocks reads."""
        return range(self._geometry.first_window_block(num_blocks * self._geometry.block_size), num_blocks)

    def _is_before_interval(self, number: int) -> bool:
        interval = KEPT_WINDOW_INTERVAL // self._geometry.block_size
        return number in self._last_window((number // interval + 1) * interval)


def _full_key(block_hash: bytes) -> BlockKey:
    return b"f" + block_hash


def _window_key(block_hash: bytes) -> BlockKey:
    return b"w" + block_hash
