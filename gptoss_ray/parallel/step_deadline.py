"""How long a rank may keep the others of its group waiting. Pure, but for what it remembers."""

from __future__ import annotations

from gptoss_ray.config import ParallelConfig

FIRST_DEADLINE_S = 30.0
"""While an epoch is new: kernels warm up, and weights are read from the disk as they are used."""

MIN_DEADLINE_S = 3.0
DEADLINE_FACTOR = 10.0
NUM_FIRST_STEPS = 3


class StepDeadline:
    """Learns how long steps take, and allows ten times as much.

    The longest step is remembered for each power of two of tokens. A step larger than any so far is taken to
    need more time in proportion, one smaller than any as long as the smallest. The first step of an epoch
    tells nothing: on a GPU kernels are compiled in it, and graphs recorded.

    Args:
        config: `collective_timeout_s`, where given, is always the answer.
    """

    def __init__(self, config: ParallelConfig) -> None:
        self._fixed_s = config.collective_timeout_s
        self._heartbeat_s = config.heartbeat_s
        self._longest_s: dict[int, float] = {}
        self._num_steps = 0

    def note(self, num_tokens: int, seconds: float) -> None:
        """Remember how long a step took in which no rank had more than `num_tokens`."""
        size = num_tokens.bit_length()
        self._num_steps += 1
        if self._num_steps > 1:
            self._longest_s[size] = max(seconds, self._longest_s.get(size, 0.0))

    def of_step(self, num_tokens: int) -> float:
        """Return the seconds after which a rank is late in a step of so many tokens."""
        if self._fixed_s is not None:
            return self._fixed_s
        if self._num_steps < NUM_FIRST_STEPS:
            return FIRST_DEADLINE_S
        return max(MIN_DEADLINE_S, DEADLINE_FACTOR * self._predict_s(num_tokens.bit_length()))

    def of_sync(self, num_tokens_before: int) -> float:
        """Return the same for the agreement after it; a rank that was idle sleeps for a heartbeat."""
        return self._fixed_s or self.of_step(num_tokens_before) + self._heartbeat_s

    def _predict_s(self, size: int) -> float:
        smaller = [known for known in self._longest_s if known <= size]
        if not smaller:
            return self._longest_s[min(self._longest_s)]
        nearest = max(smaller)
        return self._longest_s[nearest] * float(1 << (size - nearest))
