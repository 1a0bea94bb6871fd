"""When a failed call is tried again, and after how long."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass

import grpc

from gptoss_ray.client.error_details import error_details


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Exponential backoff with jitter, never shorter than what the server asks for.

    What is tried again: UNAVAILABLE (a server or replica was lost, loads or drains), and RESOURCE_EXHAUSTED
    where the server says when to come back (its queue is full). A stream whose pieces have begun to come is
    tried again only where it can be resumed.

    Attributes:
        max_attempts: In a row without a piece of the answer, the first one included; 1: never again.
        first_backoff_s: Longest wait before the second attempt.
        multiplier: Each wait may be so many times as long as the one before.
        max_backoff_s: But not longer than this.
        resumes: Whether a stream that breaks is resumed.
    """

    max_attempts: int = 5
    first_backoff_s: float = 0.2
    multiplier: float = 2.0
    max_backoff_s: float = 5.0
    resumes: bool = True

    def delay_s(self, num_failures: int, error: grpc.RpcError, jitter: float) -> float | None:
        """Return the wait after so many failures in a row; None: not again.

        Args:
            num_failures: At least 1, this one included.
            error: The last failure.
            jitter: From 0 to 1: the wait is from half to all of what the backoff allows.
        """
        code = error.code() if isinstance(error, grpc.Call | grpc.aio.AioRpcError) else None
        asked_s = error_details(error).retry_after_s
        may_succeed = code is grpc.StatusCode.UNAVAILABLE or (
            code is grpc.StatusCode.RESOURCE_EXHAUSTED and asked_s is not None
        )
        if not may_succeed or num_failures >= self.max_attempts:
            return None
        backoff_s = min(self.first_backoff_s * self.multiplier ** (num_failures - 1), self.max_backoff_s)
        return max(backoff_s * (1 + jitter) / 2, asked_s or 0.0)


class Attempts:
    """The attempts of one call.

    Args:
        policy: When there is another.
        timeout_s: For all of them together; None: no limit.
        clock: Seconds that only grow.
    """

    def __init__(
        self, policy: RetryPolicy, timeout_s: float | None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._policy = policy
        self._clock = clock
        self._deadline_s = None if timeout_s is None else clock() + timeout_s
        self._num_failures = 0

    def time_left_s(self) -> float | None:
        """Return what is left of the time, None where there is no limit."""
        return None if self._deadline_s is None else max(0.0, self._deadline_s - self._clock())

    def progressed(self) -> None:
        """Note that a piece of the answer came: failures are counted anew."""
        self._num_failures = 0

    def delay_s(self, error: grpc.RpcError) -> float:
        """Return how long to wait after a failure; raise it where there is no other attempt."""
        self._num_failures += 1
        delay_s = self._policy.delay_s(self._num_failures, error, random.random())
        left_s = self.time_left_s()
        if delay_s is None or (left_s is not None and delay_s >= left_s):
            raise error
        return delay_s
