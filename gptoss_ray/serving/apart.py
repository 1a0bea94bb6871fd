"""Work that outlives the request which began it."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextvars import Context
from typing import Any

from gptoss_ray.tracing import set_current_traceparent


def start_apart(work: Coroutine[Any, Any, None], traceparent: str = "") -> asyncio.Task[None]:
    """Start work that has nothing of the present request, but for the span that it is to belong to, if any.

    Ray finds in a task's context which request it belongs to; when Serve cancels that, because its client
    left, all that Ray was asked for in the same context is cancelled, too.
    """
    context = Context()
    context.run(set_current_traceparent, traceparent)
    return context.run(asyncio.create_task, work)
