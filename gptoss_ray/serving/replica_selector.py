"""Which replica takes a request: the one that has least left to do for it. Pure.

What a replica has cached is a guess, from two sources: the prompts that this router has sent it, and the ends
of prompts that it tells of itself, which other ingress replicas may have sent. The end of a prompt is enough:
its hash covers all tokens before it, so the next turn of the conversation has it among its own. A wrong guess
costs a prefill, no more.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from gptoss_ray.ranks.prefix_index import PrefixIndex
from gptoss_ray.ranks.rank_selector import REQUEST_WORTH_TOKENS

WAITING_WORTH_TOKENS = 4096
"""A request beyond a replica's seats weighs so much more: whoever comes next waits for its whole output."""

STATS_PERIOD_S = 2.0
"""How often replicas tell which prompts they have seen."""

_ENDS = "prompt_ends"
_END_BYTES = 8
"""Of a hash: enough to keep prompts apart, and where they are not, only the route is wrong."""


def routing_stats(ends: Sequence[bytes]) -> dict[str, bytes]:
    """Return the ends of prompts as Serve carries them to the routers."""
    return {_ENDS: b"".join(end[:_END_BYTES] for end in ends)}


@dataclass(frozen=True, slots=True)
class Candidate:
    """A replica as one request finds it.

    Attributes:
        name: Unique.
        num_cached_tokens: Of the request's prompt, in its prefix cache, as far as is known.
        num_live: Requests that it has.
        last_chosen: Greater for one that was chosen later.
    """

    name: str
    num_cached_tokens: int
    num_live: int
    last_chosen: float = 0.0


def order_candidates(candidates: Sequence[Candidate], num_tokens: int, num_seats: int) -> list[str]:
    """Return the names, best first: by tokens to compute, its own and those that others are worth.

    Args:
        candidates: Replicas, all alike.
        num_tokens: Of the prompt.
        num_seats: Requests that a replica works on at once.
    """

    def cost(candidate: Candidate) -> tuple[int, float]:
        num_waiting = max(0, candidate.num_live + 1 - num_seats)
        load = candidate.num_live * REQUEST_WORTH_TOKENS + num_waiting * WAITING_WORTH_TOKENS
        return num_tokens - candidate.num_cached_tokens + load, candidate.last_chosen

    return [candidate.name for candidate in sorted(candidates, key=cost)]


@dataclass(slots=True)
class _Known:
    """What is known of one replica."""

    blocks: PrefixIndex
    last_chosen: float
    ends: frozenset[bytes] = frozenset()
    stats: bytes = field(default=b"", repr=False)


class ReplicaSelector:
    """Remembers which replica has seen which prompts; memory is bounded, and a lost replica is forgotten.

    Args:
        block_size: Tokens in one KV block.
        num_seats: Requests that a replica works on at once.
        max_blocks: Prompt blocks remembered for each replica.
        draw: Makes numbers from 0 to 1, so that routers do not all begin with the same replica.
    """

    def __init__(
        self,
        block_size: int,
        num_seats: int,
        max_blocks: int,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self._block_size = block_size
        self._num_seats = num_seats
        self._max_blocks = max_blocks
        self._draw = draw
        self._known: dict[str, _Known] = {}
        self._num_chosen = 0

    def keep_only(self, names: Collection[str]) -> None:
        """Forget all replicas but these."""
        self._known = {name: known for name, known in self._known.items() if name in names}

    def learn(self, name: str, stats: Mapping[str, Any]) -> None:
        """Take the place of what a replica told before: `routing_stats`."""
        ends = stats.get(_ENDS, b"")
        known = self._of(name)
        if ends != known.stats:
            known.stats = ends
            known.ends = frozenset(ends[at : at + _END_BYTES] for at in range(0, len(ends), _END_BYTES))

    def order(self, hashes: Sequence[bytes], num_tokens: int, num_live: Mapping[str, int]) -> list[str]:
        """Return the replicas for a prompt, best first.

        Args:
            hashes: Of the prompt's complete blocks (`BlockHashes`), or of as many as there are.
            num_tokens: Of the prompt.
            num_live: Requests that each replica has, by name.
        """
        candidates = [
            Candidate(name, self._num_cached(name, hashes), num, self._of(name).last_chosen)
            for name, num in num_live.items()
        ]
        return order_candidates(candidates, num_tokens, self._num_seats)

    def note(self, name: str, hashes: Sequence[bytes]) -> None:
        """Note that a prompt went to a replica."""
        known = self._of(name)
        self._num_chosen += 1
        known.last_chosen = self._num_chosen
        known.blocks.add(hashes)

    def _num_cached(self, name: str, hashes: Sequence[bytes]) -> int:
        known = self._of(name)
        num_leading = known.blocks.num_leading(hashes)
        if known.ends:
            for number in range(len(hashes), num_leading, -1):
                if hashes[number - 1][:_END_BYTES] in known.ends:
                    return number * self._block_size
        return num_leading * self._block_size

    def _of(self, name: str) -> _Known:
        known = self._known.get(name)
        if known is None:
            known = self._known[name] = _Known(PrefixIndex(self._max_blocks), -self._draw())
        return known
