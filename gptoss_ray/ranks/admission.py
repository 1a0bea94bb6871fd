"""Which requests the ranks of a replica work on now, which wait, and which are refused.

All requests of a replica come through here, from whichever ingress replica, so that nothing has to be agreed
on with anyone: a rank gets what it has seats and KV blocks for, by estimate; what is beyond that waits, and
of it each tenant gets its share (`fair_queue.py`). The queue is bounded in requests and in tokens. A
tenant may fill as much of it as it leaves free, so that one who floods it never keeps another out.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from gptoss_ray.errors import OverloadedError
from gptoss_ray.generation import GenerationRequest
from gptoss_ray.kvcache.prefix_cache import BlockHashes
from gptoss_ray.ranks.fair_queue import FairQueue
from gptoss_ray.ranks.rank_room import OutputEstimate
from gptoss_ray.ranks.rank_selector import RankSelector, Seat

MAX_RETRY_AFTER_S = 60.0
MAX_REMEMBERED_ENDS = 1024
"""Prompts of which a replica tells that it has lately seen them."""

_RATE_MEMORY_S = 30.0


@dataclass(frozen=True, slots=True)
class QueueLimits:
    """How much may wait: requests, and the tokens that they are thought to come to."""

    max_requests: int
    max_tokens: int


@dataclass(eq=False, slots=True)
class Ticket:
    """A request that waits or runs; `seat` is None while it waits.

    Attributes:
        admit: Called once, with the rank, when its turn has come.
    """

    request: GenerationRequest
    admit: Callable[[int], None]
    num_output_tokens: int
    hashes: BlockHashes
    number: int | None = None
    seat: Seat | None = None

    @property
    def num_tokens(self) -> int:
        """What it is thought to come to, what it has emitted before included."""
        request = self.request
        return len(request.prompt_token_ids) + len(request.emitted_token_ids) + self.num_output_tokens


class Admission:
    """Admits, queues and refuses.

    Args:
        selector: Chooses the rank, and knows what each has room for.
        limits: Of the queue.
        block_size: Tokens in one KV block.
        caches_prefixes: Whether ranks keep the blocks of prompts.
        clock: Seconds that only grow.
    """

    def __init__(
        self,
        selector: RankSelector,
        limits: QueueLimits,
        *,
        block_size: int,
        caches_prefixes: bool,
        clock: Callable[[], float],
    ) -> None:
        self._selector = selector
        self._limits = limits
        self._block_size = block_size
        self._caches_prefixes = caches_prefixes
        self._queue: FairQueue[Ticket] = FairQueue()
        self._outputs = OutputEstimate()
        self._latest_ends: OrderedDict[bytes, None] = OrderedDict()
        self._rate = _Rate(clock)

    @property
    def num_queued(self) -> int:
        """Requests that wait."""
        return len(self._queue)

    @property
    def num_queued_tokens(self) -> int:
        """What they are thought to come to, prompts and outputs."""
        return round(self._queue.cost)

    @property
    def latest_ends(self) -> list[bytes]:
        """Hashes of the last complete block of each prompt of late: what goes on from it begins with that."""
        return list(self._latest_ends)

    def enter(self, request: GenerationRequest, admit: Callable[[int], None]) -> Ticket:
        """Take a request in; `admit` is called with its rank, at once where there is room.

        Raises:
            OverloadedError: It would have to wait, and no more may.
        """
        params = request.params
        num_left = max(1, params.max_tokens - len(request.emitted_token_ids))
        hashes = BlockHashes(request.cache_salt, self._block_size)
        ticket = Ticket(request, admit, self._outputs.of(num_left), hashes)
        if len(self._queue) or not self._seat(ticket):
            self._check_limits(ticket)
            ticket.number = self._queue.push(request.cache_salt, ticket.num_tokens, ticket)
        return ticket

    def leave(self, ticket: Ticket, num_output_tokens: int | None) -> None:
        """Let a request go, from wherever it is, and admit who comes next.

        Args:
            ticket: As `enter` returned it; it leaves once.
            num_output_tokens: Of its whole output; None where it did not run to its end.
        """
        request = ticket.request
        if ticket.number is not None:
            self._queue.remove(request.cache_salt, ticket.number)
        if ticket.seat is not None:
            self._selector.release(ticket.seat)
            num_tokens = ticket.num_tokens
            if num_output_tokens is not None:
                num_made = num_output_tokens - len(request.emitted_token_ids)
                self._outputs.note(num_output_tokens)
                self._queue.correct(request.cache_salt, num_made - ticket.num_output_tokens, request.share)
                num_tokens += num_made - ticket.num_output_tokens
            self._rate.note(num_tokens)
        self.admit_waiting()

    def admit_waiting(self) -> None:
        """Seat whose turn it is, one after the other; nobody overtakes one who is too large to fit yet."""
        while (head := self._queue.head()) is not None:
            tenant, number, ticket = head
            if not self._seat(ticket):
                return
            self._queue.remove(tenant, number)
            ticket.number = None

    def _seat(self, ticket: Ticket) -> bool:
        request = ticket.request
        token_ids = request.prompt_token_ids + request.emitted_token_ids
        hashes = ticket.hashes.of_complete_blocks(token_ids, len(token_ids)) if self._caches_prefixes else []
        ticket.seat = self._selector.acquire(hashes, len(token_ids), ticket.num_output_tokens)
        if ticket.seat is None:
            return False
        self._queue.serve(request.cache_salt, ticket.num_tokens, request.share)
        self._remember_end(hashes)
        ticket.admit(ticket.seat.rank)
        return True

    def _remember_end(self, hashes: list[bytes]) -> None:
        if hashes:
            self._latest_ends[hashes[-1]] = None
            self._latest_ends.move_to_end(hashes[-1])
            if len(self._latest_ends) > MAX_REMEMBERED_ENDS:
                self._latest_ends.popitem(last=False)

    def _check_limits(self, ticket: Ticket) -> None:
        queue, tenant = self._queue, ticket.request.cache_salt
        # Without keys all are one tenant, with nobody to leave room for.
        num_left_free, cost_left_free = (queue.num_of(tenant), queue.cost_of(tenant)) if tenant else (0, 0.0)
        has_place = len(queue) + 1 + num_left_free <= self._limits.max_requests
        has_tokens = queue.cost + ticket.num_tokens + cost_left_free <= self._limits.max_tokens
        # A request with more tokens than may wait at all is taken where its tenant has no other.
        if has_place and (has_tokens or not queue.num_of(tenant)):
            return
        raise OverloadedError(
            f"{len(queue)} requests wait here, and no more of yours can; try again later.",
            retry_after_s=self._retry_after_s(),
        )

    def _retry_after_s(self) -> float:
        """Return when half of what waits will have been served, at the rate of late."""
        rate = self._rate.per_second()
        return min(MAX_RETRY_AFTER_S, max(1.0, self._queue.cost / 2 / rate)) if rate else 1.0


class _Rate:
    """Tokens a second, of which those of long ago count less and less."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._start_s = self._at_s = clock()
        self._num_tokens = 0.0

    def note(self, num_tokens: int) -> None:
        self._decay()
        self._num_tokens += num_tokens

    def per_second(self) -> float:
        self._decay()
        # What a steady rate of 1 would have come to since the start.
        weight_s = _RATE_MEMORY_S * -math.expm1(-(self._at_s - self._start_s) / _RATE_MEMORY_S)
        return self._num_tokens / weight_s if weight_s > 0 else 0.0

    def _decay(self) -> None:
        now_s = self._clock()
        self._num_tokens *= math.exp(-(now_s - self._at_s) / _RATE_MEMORY_S)
        self._at_s = now_s
