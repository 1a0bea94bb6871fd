"""The one place that changes how far stock Ray Serve runs ahead of a stream's reader.

Serve 2.60 has two buffers without a bound between a method that streams and the connection to its client:
the replica's queue of what the method has yielded, and the objects that the proxy has not taken from the
replica. A client that stops reading would have all of its answer pile up there. Here the proxy lets a replica
be `MAX_UNREAD_OBJECTS` ahead, at which Ray holds the replica's generator, and a method asks `wait_for_reader`
before each piece, which waits while the queue is long. What follows is `token_stream.py`'s: the sequence
pauses.
"""

from __future__ import annotations

import asyncio
import importlib
from contextvars import ContextVar
from typing import Any, Protocol

MAX_UNREAD_OBJECTS = 64
"""Of one stream, between a replica and a proxy."""

MAX_UNREAD_PIECES = 64
"""Of one stream, in the queue of its replica."""

_POLL_S = 0.01


class Unread(Protocol):
    """What a reader has not taken."""

    def num_unread(self) -> int:
        """Return how many pieces wait."""
        ...


_unread: ContextVar[Unread | None] = ContextVar("unread", default=None)


async def wait_for_reader() -> None:
    """Return once the reader of this request's stream is not too far behind; at once outside of Serve."""
    queue = _unread.get()
    while queue is not None and queue.num_unread() >= MAX_UNREAD_PIECES:
        await asyncio.sleep(_POLL_S)


def pace_replica_streams() -> None:
    """Have the requests of this replica know the queues of their streams."""
    module: Any = importlib.import_module("ray.serve._private.replica")
    queue_class: Any = module.MessageQueue

    class CountedQueue(queue_class):  # type: ignore[misc]  # Serve's, which mypy does not know
        def __init__(self) -> None:
            super().__init__()
            # The method runs in a copy of the context in which its queue is made.
            _unread.set(self)

        def num_unread(self) -> int:
            return len(self._message_queue)

    module.MessageQueue = CountedQueue


def pace_proxy_streams() -> None:
    """Have this proxy let no replica run far ahead."""
    wrapper: Any = importlib.import_module("ray.serve._private.request_router.replica_wrapper")
    replica: Any = wrapper.ActorReplicaWrapper
    make = replica.__init__

    def make_paced(self: Any, actor_handle: Any) -> None:
        make(self, _PacedHandle(actor_handle))

    replica.__init__ = make_paced


class _PacedHandle:
    """An actor's handle whose streaming calls are held when they are too far ahead."""

    def __init__(self, handle: Any) -> None:
        self._handle = handle

    def __getattr__(self, name: str) -> Any:
        member = getattr(self._handle, name)
        return _PacedMethod(member) if name.startswith("handle_request") else member


class _PacedMethod:
    def __init__(self, method: Any) -> None:
        self._method = method

    def __getattr__(self, name: str) -> Any:
        return getattr(self._method, name)

    def options(self, **options: Any) -> Any:
        if options.get("num_returns") == "streaming":
            options["_generator_backpressure_num_objects"] = MAX_UNREAD_OBJECTS
        return self._method.options(**options)
