from __future__ import annotations

import asyncio
import warnings

import pytest

from gptoss_ray.serving import stream_pacing
from gptoss_ray.serving.stream_pacing import (
    MAX_UNREAD_OBJECTS,
    MAX_UNREAD_PIECES,
    pace_proxy_streams,
    pace_replica_streams,
    wait_for_reader,
)

with warnings.catch_warnings():
    # Importing Serve warns of how Serve uses pydantic.
    warnings.simplefilter("ignore")
    from ray.serve._private import replica
    from ray.serve._private.request_router import replica_wrapper


@pytest.fixture
def paced_queue(monkeypatch):
    monkeypatch.setattr(replica, "MessageQueue", replica.MessageQueue)
    pace_replica_streams()
    return replica.MessageQueue


async def test_a_method_waits_while_the_queue_of_its_request_is_long(paced_queue, monkeypatch):
    monkeypatch.setattr(stream_pacing, "_POLL_S", 0.001)
    queue = paced_queue()
    for _ in range(MAX_UNREAD_PIECES):
        await wait_for_reader()
        queue.put_nowait("piece")
    waiting = asyncio.create_task(wait_for_reader())
    await asyncio.sleep(0.02)
    assert not waiting.done()
    queue.get_messages_nowait()
    await asyncio.wait_for(waiting, 5)


async def test_requests_side_by_side_know_their_own_queues(paced_queue):
    async def request(num_unread):
        queue = paced_queue()
        for _ in range(num_unread):
            queue.put_nowait("piece")
        await asyncio.sleep(0)
        await wait_for_reader()

    stalled = asyncio.create_task(request(MAX_UNREAD_PIECES))
    await asyncio.wait_for(asyncio.create_task(request(1)), 5)
    assert not stalled.done()
    stalled.cancel()


async def test_outside_of_serve_nobody_waits():
    await asyncio.wait_for(wait_for_reader(), 1)


def test_only_streaming_calls_of_a_proxy_are_held(monkeypatch):
    made = []

    class Method:
        def options(self, **options):
            made.append(options)
            return self

    class Handle:
        handle_request = handle_request_streaming = handle_request_with_rejection = Method()
        other = "as it is"

    wrapper = replica_wrapper.ActorReplicaWrapper
    monkeypatch.setattr(wrapper, "__init__", wrapper.__init__)
    pace_proxy_streams()
    handle = wrapper(Handle())._actor_handle
    handle.handle_request_with_rejection.options(num_returns="streaming")
    handle.handle_request.options(num_returns=1)
    assert made == [
        {"num_returns": "streaming", "_generator_backpressure_num_objects": MAX_UNREAD_OBJECTS},
        {"num_returns": 1},
    ]
    assert handle.other == "as it is"
