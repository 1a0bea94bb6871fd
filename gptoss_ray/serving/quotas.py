"""What each API key has used: requests and tokens by the minute, and requests under way.

Counts are of this process: to share them would cost a call for every request.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from gptoss_ray.config import QuotaConfig
from gptoss_ray.errors import RateLimitError

_MINUTE_S = 60.0
_SOON_S = 1.0


@dataclass(slots=True)
class _Bucket:
    """A minute's worth at most, filled steadily; it may go below zero, and is empty until that is made up."""

    level: float
    at_s: float

    def refill(self, per_minute: int, now_s: float) -> None:
        """Add what has come since the last time."""
        gained = (now_s - self.at_s) * per_minute / _MINUTE_S
        self.level = min(self.level + gained, float(per_minute))
        self.at_s = now_s


@dataclass(slots=True)
class _Usage:
    num_live: int = 0
    buckets: dict[str, _Bucket] = field(default_factory=dict)


class Quotas:
    """Counts what tenants use, and refuses what is beyond their quota.

    Args:
        clock: Seconds that only grow.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._usages: dict[str, _Usage] = {}

    @contextmanager
    def request(self, tenant: str, quota: QuotaConfig) -> Iterator[None]:
        """Count a request while it is under way.

        Raises:
            RateLimitError: There are too many at once, or in this minute.
        """
        usage = self._usages.setdefault(tenant, _Usage())
        if quota.max_concurrent is not None and usage.num_live >= quota.max_concurrent:
            raise RateLimitError(
                f"{quota.max_concurrent} requests of this API key are under way, the most that it may have.",
                retry_after_s=_SOON_S,
            )
        if quota.requests_per_minute is not None:
            self._take_request(usage, quota.requests_per_minute)
        usage.num_live += 1
        try:
            yield
        finally:
            usage.num_live -= 1

    def check_tokens(self, tenant: str, quota: QuotaConfig) -> None:
        """Refuse to begin where the tokens of this minute are used up.

        What a request will use is not known before it ends, so the last one may go beyond; the next then
        waits the longer.

        Raises:
            RateLimitError: With when there are tokens again.
        """
        if quota.tokens_per_minute is None:
            return
        bucket = self._bucket(tenant, "tokens", quota.tokens_per_minute)
        if bucket.level <= 0:
            raise RateLimitError(
                f"This API key has used its {quota.tokens_per_minute} tokens per minute.",
                retry_after_s=(1 - bucket.level) * _MINUTE_S / quota.tokens_per_minute,
            )

    def charge_tokens(self, tenant: str, quota: QuotaConfig, num_tokens: int) -> None:
        """Count tokens that were used."""
        if quota.tokens_per_minute is not None:
            self._bucket(tenant, "tokens", quota.tokens_per_minute).level -= num_tokens

    def _take_request(self, usage: _Usage, per_minute: int) -> None:
        bucket = self._filled(usage, "requests", per_minute)
        if bucket.level < 1:
            raise RateLimitError(
                f"This API key has made its {per_minute} requests per minute.",
                retry_after_s=(1 - bucket.level) * _MINUTE_S / per_minute,
            )
        bucket.level -= 1

    def _bucket(self, tenant: str, kind: str, per_minute: int) -> _Bucket:
        return self._filled(self._usages.setdefault(tenant, _Usage()), kind, per_minute)

    def _filled(self, usage: _Usage, kind: str, per_minute: int) -> _Bucket:
        now_s = self._clock()
        bucket = usage.buckets.setdefault(kind, _Bucket(float(per_minute), now_s))
        bucket.refill(per_minute, now_s)
        return bucket
