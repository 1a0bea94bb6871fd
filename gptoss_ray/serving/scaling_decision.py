"""How many replicas a model is to have, from what they have to do: fast up, slow down. Pure.

A replica's load is counted in replicas: 1 is what one should have at most. Their sum is how many are needed.
More are wanted as soon as the sum has been above what there is for `up_delay_s`; fewer when for
`down_delay_s` that many would have been enough, with `DOWN_MARGIN` to spare. So the number does not swing
between two values that both seem right: one that was just raised is not lowered for as long.

A replica that says nothing, because it starts or is lost, counts as idle where more are wanted and as full
where fewer are: what is not known changes nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from gptoss_ray.config import ScalingConfig
from gptoss_ray.ranks.group_load import GroupLoad

DOWN_MARGIN = 0.25
"""Share of the fewer replicas that would stay free."""

MAX_LATE_LOAD = 2.0
"""A replica whose first tokens are late is at most worth so many: waiting does not grow with load evenly."""

MAX_GAP_S = 30.0
"""What was seen before so long a silence does not count on."""

_TOLERANCE = 1e-9


@dataclass(frozen=True, slots=True)
class Observation:
    """What is seen at one moment.

    Attributes:
        now_s: Time, in seconds; so are all other times.
        num_wanted: Replicas as last decided.
        loads: Of the replicas that tell theirs.
        num_held: Requests that wait for a replica at all.
        last_up_s: When more were last wanted.
    """

    now_s: float
    num_wanted: int
    loads: Sequence[GroupLoad] = ()
    num_held: float = 0.0
    last_up_s: float | None = None

    @property
    def num_silent(self) -> int:
        """Replicas that start, are lost, or have not spoken yet."""
        return max(0, self.num_wanted - len(self.loads))


@dataclass(frozen=True, slots=True)
class ScalingMemory:
    """What one decision leaves for the next.

    Attributes:
        at_s: When it was made.
        high_since_s: Since when more replicas are needed than there are.
        low_since_s: Since when fewer would be enough.
        low_peak: The most that would have been needed since.
    """

    at_s: float = -math.inf
    high_since_s: float | None = None
    low_since_s: float | None = None
    low_peak: int = 0


def decide(
    seen: Observation, memory: ScalingMemory, config: ScalingConfig, num_seats: int
) -> tuple[int, ScalingMemory]:
    """Return how many replicas there are to be, and what the next decision has to know.

    Args:
        seen: What there is now.
        memory: As the last decision left it.
        config: Bounds, targets and delays.
        num_seats: Sequences that one replica runs at once.
    """
    if seen.now_s - memory.at_s > MAX_GAP_S:
        memory = ScalingMemory()
    memory = replace(memory, at_s=seen.now_s)
    bounded = min(max(seen.num_wanted, config.min_replicas), config.max_replicas)
    if bounded != seen.num_wanted:
        return bounded, ScalingMemory(seen.now_s)
    demand = replicas_needed(seen.loads, config, num_seats)
    more = _more(seen, demand, config)
    if more > seen.num_wanted:
        return _go_up(seen, memory, more, config)
    memory = replace(memory, high_since_s=None)
    fewer = _fewer(seen, demand, config)
    if fewer < seen.num_wanted:
        return _go_down(seen, memory, fewer, config)
    return seen.num_wanted, replace(memory, low_since_s=None, low_peak=0)


def replicas_needed(loads: Sequence[GroupLoad], config: ScalingConfig, num_seats: int) -> float:
    """Return how many replicas these loads would fill to their targets.

    Each wants a seat, and room for its tokens: whichever is scarcer counts. A first token that is late counts
    only where requests are in each other's way: more replicas make no long prompt faster.
    """
    seats = sum(load.num_running + load.num_queued for load in loads) / (num_seats * config.target_running)
    kv = sum(load.kv_use for load in loads) / config.target_kv_use
    queued = sum(load.num_queued_tokens for load in loads) / config.target_queued_tokens
    return max(seats, kv + queued, sum(_lateness(load, config) for load in loads))


def _lateness(load: GroupLoad, config: ScalingConfig) -> float:
    is_alone = load.num_running + load.num_queued <= 1
    if config.target_first_token_s is None or load.first_token_s is None or is_alone:
        return 0.0
    return min(MAX_LATE_LOAD, load.first_token_s / config.target_first_token_s)


def _more(seen: Observation, demand: float, config: ScalingConfig) -> int:
    """Return how many are needed, if those that say nothing are idle."""
    needed = math.ceil(demand - _TOLERANCE)
    return min(config.max_replicas, max(needed, 1 if seen.num_held > 0 else 0))


def _fewer(seen: Observation, demand: float, config: ScalingConfig) -> int:
    """Return how many would be enough, if those that say nothing are full."""
    demand += seen.num_silent
    if demand == 0 and not seen.num_held and seen.num_wanted <= 1:
        return max(config.min_replicas, 0)
    enough = math.ceil(demand / (1 - DOWN_MARGIN) - _TOLERANCE)
    return max(config.min_replicas, enough, 1)


def _go_up(
    seen: Observation, memory: ScalingMemory, more: int, config: ScalingConfig
) -> tuple[int, ScalingMemory]:
    since_s = seen.now_s if memory.high_since_s is None else memory.high_since_s
    # The first replica is never waited for: nothing can be answered without.
    if seen.num_wanted == 0 or seen.now_s - since_s >= config.up_delay_s:
        return more, ScalingMemory(seen.now_s)
    return seen.num_wanted, ScalingMemory(seen.now_s, high_since_s=since_s)


def _go_down(
    seen: Observation, memory: ScalingMemory, fewer: int, config: ScalingConfig
) -> tuple[int, ScalingMemory]:
    since_s = seen.now_s if memory.low_since_s is None else memory.low_since_s
    peak = min(max(fewer, memory.low_peak), seen.num_wanted)
    delay_s = config.zero_delay_s if fewer == 0 else config.down_delay_s
    was_raised = seen.last_up_s is not None and seen.now_s - seen.last_up_s < delay_s
    if seen.now_s - since_s >= delay_s and not was_raised:
        return peak, ScalingMemory(seen.now_s)
    return seen.num_wanted, replace(memory, low_since_s=since_s, low_peak=peak)
