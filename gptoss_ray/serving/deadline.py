"""The moment by which a caller wants its answer; behind it, queued or running work of the request ends.

It is ambient, as in gRPC itself: the gate sets it for the request's task, and whatever makes tokens for the
request keeps it (`metered_source.py`), so that no route can forget to pass it on.
"""

from __future__ import annotations

import asyncio
import math
import sys
from collections.abc import AsyncGenerator
from contextlib import aclosing
from contextvars import ContextVar
from typing import TypeVar

from gptoss_ray.errors import DeadlineExceededError, InvalidRequestError

TIMEOUT_HEADER = "x-request-timeout-s"
MAX_TIMEOUT_S = 86_400.0

ItemT = TypeVar("ItemT")

_deadline_s: ContextVar[float | None] = ContextVar("deadline_s", default=None)


def set_deadline(timeout: str | None) -> None:
    """Give the rest of this task's work so many seconds, as the header says; None: no end.

    Raises:
        InvalidRequestError: It is no number above zero.
    """
    timeout_s = None if timeout is None else _parse(timeout)
    _deadline_s.set(None if timeout_s is None else asyncio.get_running_loop().time() + timeout_s)


def _parse(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds <= MAX_TIMEOUT_S:
        raise InvalidRequestError(
            f"{TIMEOUT_HEADER} is {text[:40]!r}; it must be a number of seconds above 0 and at most "
            f"{MAX_TIMEOUT_S:g}.",
            param=TIMEOUT_HEADER,
        )
    return seconds


def before_deadline(items: AsyncGenerator[ItemT, None]) -> AsyncGenerator[ItemT, None]:
    """Return the items, whose source is closed when the deadline of this task's request passes.

    Raises:
        DeadlineExceededError: From the generator, when it has passed.
    """
    deadline_s = _deadline_s.get()
    return items if deadline_s is None else _before(deadline_s, items)


async def _before(deadline_s: float, items: AsyncGenerator[ItemT, None]) -> AsyncGenerator[ItemT, None]:
    alarm = _Alarm(deadline_s)
    try:
        async with aclosing(items):
            while True:
                try:
                    item = await alarm.next_of(items)
                except StopAsyncIteration:
                    return
                yield item
    finally:
        alarm.stop()


class _Alarm:
    """Wakes whoever waits for the next item when the deadline passes; nothing is made for each item."""

    def __init__(self, deadline_s: float) -> None:
        self._handle = asyncio.get_running_loop().call_at(deadline_s, self._ring)
        self._waiting: asyncio.Task[object] | None = None
        self._has_rung = False

    async def next_of(self, items: AsyncGenerator[ItemT, None]) -> ItemT:
        """Return the next item, raise StopAsyncIteration behind the last, DeadlineExceededError when late."""
        if self._has_rung:
            raise _exceeded()
        self._waiting = asyncio.current_task()
        try:
            return await anext(items)
        except asyncio.CancelledError:
            if not self._has_rung or _is_cancelled_by_others(self._waiting):
                raise
            raise _exceeded() from None
        finally:
            self._waiting = None

    def stop(self) -> None:
        """Ring no more."""
        self._handle.cancel()

    def _ring(self) -> None:
        self._has_rung = True
        if self._waiting is not None:
            self._waiting.cancel()


def _is_cancelled_by_others(task: asyncio.Task[object] | None) -> bool:
    """Take our own cancellation back, as `asyncio.timeout` does; whether another one is left."""
    if sys.version_info >= (3, 11) and task is not None:
        return task.uncancel() > 0
    return False


def _exceeded() -> DeadlineExceededError:
    return DeadlineExceededError(f"The answer was not complete within the request's {TIMEOUT_HEADER}.")
