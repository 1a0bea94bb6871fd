"""Replicas that answer conversations in simulated time: what a choice among them is worth.

A replica computes prompts one after the other at a steady rate, behind what its cache has; then the answer
takes a while and no more of it. Its cache holds so many blocks and forgets those unused for longest.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from gptoss_ray.bench.multi_turn_trace import MultiTurnTrace
from gptoss_ray.bench.routing_report import RoutedTrace, Turn
from gptoss_ray.kvcache.prefix_cache import BlockHashes
from gptoss_ray.ranks.prefix_index import PrefixIndex

BLOCK = 32
TOKENS_PER_S = 4000.0
ANSWER_S = 0.5

Choose = Callable[[float, Sequence[bytes], int, Mapping[str, int]], str]
"""Chooses a replica: by the time, the prompt's hashes and number of tokens, and each replica's requests."""


@dataclass
class SimulatedReplica:
    """One replica; `ends` are the hashes of the last blocks of its prompts."""

    cache: PrefixIndex
    free_at_s: float = 0.0
    num_live: int = 0
    ends: list[bytes] = field(default_factory=list)

    def prefill(self, now_s: float, hashes: Sequence[bytes], num_tokens: int) -> tuple[float, int]:
        """Return when the first token comes, and how many tokens were cached."""
        num_cached = min(self.cache.num_leading(hashes) * BLOCK, num_tokens - 1)
        self.free_at_s = max(now_s, self.free_at_s) + (num_tokens - num_cached) / TOKENS_PER_S
        self.cache.add(hashes)
        if hashes:
            self.ends.append(hashes[-1])
        return self.free_at_s, num_cached


def replay(
    trace: MultiTurnTrace, replicas: Mapping[str, SimulatedReplica], num_users: int, choose: Choose, name: str
) -> RoutedTrace:
    """Send a trace to replicas; return what its users saw."""
    turns: list[Turn] = []
    hashes_of = {}
    for number in range(trace.num_conversations):
        longest = trace.prompts(number)[-1]
        hashes_of[number] = BlockHashes("", BLOCK).of_complete_blocks(longest, len(longest))
    waiting = list(range(trace.num_conversations))
    # (time, order, what): a turn to send, or a replica that is done with one.
    events: list[tuple[float, int, tuple[int, int] | str]] = []
    num_events = 0

    def push(at_s: float, what: tuple[int, int] | str) -> None:
        nonlocal num_events
        num_events += 1
        heapq.heappush(events, (at_s, num_events, what))

    def begin(at_s: float) -> None:
        if waiting:
            number = waiting.pop(0)
            push(at_s + trace.pauses_s(number)[0], (number, 0))

    for _ in range(num_users):
        begin(0.0)
    now_s = 0.0
    while events:
        now_s, _, what = heapq.heappop(events)
        if isinstance(what, str):
            replicas[what].num_live -= 1
            continue
        number, turn = what
        num_tokens = trace.system_tokens + (turn + 1) * trace.turn_tokens
        hashes = hashes_of[number][: num_tokens // BLOCK]
        num_live = {name: replica.num_live for name, replica in replicas.items()}
        chosen = choose(now_s, hashes, num_tokens, num_live)
        first_s, num_cached = replicas[chosen].prefill(now_s, hashes, num_tokens)
        replicas[chosen].num_live += 1
        turns.append(Turn(turn, first_s - now_s, num_tokens, num_cached))
        end_s = first_s + ANSWER_S
        push(end_s, chosen)
        if turn + 1 < trace.num_turns:
            push(end_s + trace.pauses_s(number)[turn + 1], (number, turn + 1))
        else:
            begin(end_s)
    return RoutedTrace(name, turns, now_s)


def two_choices(seed: int = 0) -> Choose:
    """Return Serve's choice: of two replicas at random, the one with fewer requests."""
    draw = random.Random(seed)

    def choose(_now_s: float, _hashes: Sequence[bytes], _num: int, num_live: Mapping[str, int]) -> str:
        return min(draw.sample(sorted(num_live), 2), key=lambda name: num_live[name])

    return choose
