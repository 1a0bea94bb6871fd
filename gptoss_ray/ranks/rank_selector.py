"""Which rank of a group takes a request: the one that has least left to do for it. Pure."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

from gptoss_ray.ranks.prefix_index import PrefixIndex
from gptoss_ray.ranks.rank_room import RankRoom

MAX_INDEXED_BLOCKS = 16_384
"""Prompt blocks remembered for each rank, half a million tokens at 32 a block; about 2 MiB."""

REQUEST_WORTH_TOKENS = 256
"""A live request on a rank weighs as much as so many prompt tokens that it would have to compute."""


class Seat(NamedTuple):
    """Where a request is: its rank, and the KV blocks that are reckoned with for it."""

    rank: int
    num_blocks: int


class RankSelector:
    """Counts what each rank has, and remembers which prompts it has lately seen.

    The index is a guess: a rank evicts blocks without telling. A wrong guess costs a prefill, no more.

    Args:
        num_ranks: Ranks to choose from.
        block_size: Tokens in one KV block.
        room: What each of them takes.
    """

    def __init__(self, num_ranks: int, block_size: int, room: RankRoom) -> None:
        self._block_size = block_size
        self._room = room
        self._num_live = [0] * num_ranks
        self._num_blocks = [0] * num_ranks
        self._last_chosen_at = [0] * num_ranks
        self._num_chosen = 0
        self._is_open = [True] * num_ranks
        self._indices = [PrefixIndex(MAX_INDEXED_BLOCKS) for _ in range(num_ranks)]

    @property
    def num_live(self) -> int:
        """Requests that are acquired and not yet released, over all ranks."""
        return sum(self._num_live)

    def open_only(self, ranks: Collection[int]) -> None:
        """Choose among these ranks from now on; the others are lost, or do not step yet."""
        self._is_open = [rank in ranks for rank in range(len(self._num_live))]

    def acquire(self, hashes: Sequence[bytes], num_tokens: int, num_output_tokens: int) -> Seat | None:
        """Return a seat for a request, which counts until `release`; None where no rank has room for it.

        Of the ranks with room, the one with the fewest tokens to compute wins, where live requests count too;
        among equals the one that was chosen longest ago. A rank without any request has room for each.

        Args:
            hashes: Of the complete blocks of its tokens (`BlockHashes`); empty where prefixes are not cached.
            num_tokens: Of its prompt, and output so far of a resumed request.
            num_output_tokens: That it is thought to make yet.
        """
        num_needed = self._room.blocks_of(num_tokens + num_output_tokens)
        choices = []
        for rank, num_live in enumerate(self._num_live):
            num_cached = self._indices[rank].num_leading(hashes)
            seat = Seat(rank, max(0, num_needed - num_cached))
            if not self._is_open[rank] or (num_live and not self._has_room(seat)):
                continue
            num_to_compute = num_tokens - num_cached * self._block_size + num_live * REQUEST_WORTH_TOKENS
            choices.append((num_to_compute, self._last_chosen_at[rank], seat))
        if not choices:
            return None
        _, _, seat = min(choices)
        self._num_chosen += 1
        self._last_chosen_at[seat.rank] = self._num_chosen
        self._num_live[seat.rank] += 1
        self._num_blocks[seat.rank] += seat.num_blocks
        self._indices[seat.rank].add(hashes)
        return seat

    def release(self, seat: Seat) -> None:
        """Note that a request has ended."""
        assert self._num_live[seat.rank] > 0, "a request is released once"
        self._num_live[seat.rank] -= 1
        self._num_blocks[seat.rank] -= seat.num_blocks

    def _has_room(self, seat: Seat) -> bool:
        num_blocks = self._num_blocks[seat.rank] + seat.num_blocks
        return self._num_live[seat.rank] < self._room.max_live and num_blocks <= self._room.num_blocks
