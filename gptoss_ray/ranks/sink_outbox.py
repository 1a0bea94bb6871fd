"""Outputs on their way from a rank to the ingress replicas, bounded for each of them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Iterable
from dataclasses import dataclass, field

from gptoss_ray.generation import TokenOutput
from gptoss_ray.ranks.step_loop import Batches

logger = logging.getLogger(__name__)

MAX_BUFFERED_OUTPUTS = 16_384
"""About 250 steps of 64 sequences: a consumer this far behind no longer reads."""

SUBSCRIBE_TIMEOUT_S = 10.0
"""A sink that has requests here but does not read within this time is taken for dead."""


@dataclass
class _Sink:
    outputs: list[TokenOutput] = field(default_factory=list)
    live_request_ids: set[str] = field(default_factory=set)
    arrived: asyncio.Event = field(default_factory=asyncio.Event)
    num_subscriptions: int = 0
    is_subscribed: bool = False


class SinkOutbox:
    """Buffers each sink's outputs until its stream takes them; belongs to one event loop.

    A sink is one ingress replica. Where it does not subscribe, falls too far behind or ends its stream,
    its requests are aborted: nothing is kept for a reader that is gone.

    Args:
        abort: Called with the ids of requests whose sink is lost.
    """

    def __init__(self, abort: Callable[[Iterable[str]], object]) -> None:
        self._abort = abort
        self._sinks: dict[str, _Sink] = {}

    def open_request(self, sink_id: str, request_id: str) -> None:
        """Note that a request's outputs go to this sink."""
        sink = self._sinks.get(sink_id)
        if sink is None:
            sink = self._sinks[sink_id] = _Sink()
            asyncio.get_running_loop().call_later(SUBSCRIBE_TIMEOUT_S, self._drop_unsubscribed, sink_id)
        sink.live_request_ids.add(request_id)

    def close_request(self, sink_id: str, request_id: str) -> None:
        """Forget a request that was refused."""
        sink = self._sinks.get(sink_id)
        if sink is not None:
            sink.live_request_ids.discard(request_id)

    def deliver(self, batches: Batches) -> None:
        """Add the outputs of one step."""
        for sink_id, outputs in batches.items():
            sink = self._sinks.get(sink_id)
            if sink is None:
                continue
            sink.outputs.extend(outputs)
            sink.live_request_ids.difference_update(
                output.request_id for output in outputs if output.finish_reason is not None
            )
            sink.arrived.set()
            if len(sink.outputs) > MAX_BUFFERED_OUTPUTS:
                self._drop(sink_id, f"it left {len(sink.outputs)} outputs unread")

    async def stream(self, sink_id: str) -> AsyncGenerator[list[TokenOutput], None]:
        """Yield all that has arrived since the last item; its end aborts the sink's requests.

        A newer stream of the same sink takes over from an older one.
        """
        sink = self._sinks.setdefault(sink_id, _Sink())
        sink.num_subscriptions += 1
        subscription = sink.num_subscriptions
        sink.is_subscribed = True
        sink.arrived.set()
        try:
            while sink.num_subscriptions == subscription and self._sinks.get(sink_id) is sink:
                await sink.arrived.wait()
                sink.arrived.clear()
                if sink.outputs and sink.num_subscriptions == subscription:
                    outputs, sink.outputs = sink.outputs, []
                    yield outputs
        finally:
            if sink.num_subscriptions == subscription and self._sinks.get(sink_id) is sink:
                self._drop(sink_id, "its stream ended")

    def _drop_unsubscribed(self, sink_id: str) -> None:
        sink = self._sinks.get(sink_id)
        if sink is not None and not sink.is_subscribed:
            self._drop(sink_id, f"it did not subscribe within {SUBSCRIBE_TIMEOUT_S:g} s")

    def _drop(self, sink_id: str, reason: str) -> None:
        sink = self._sinks.pop(sink_id)
        sink.arrived.set()
        if sink.live_request_ids:
            logger.warning(
                "sink_lost sink_id=%s reason=%r num_aborted=%d", sink_id, reason, len(sink.live_request_ids)
            )
            self._abort(tuple(sink.live_request_ids))
