"""A Ray with too few CPUs for the replicas that the load needs: its autoscaler adds nodes and removes them.

Times are printed, and stand in docs/reliability.md.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator

import pytest

from tests.support.elastic_ray import MAX_WORKERS
from tests.support.scaling_load import (
    PATIENCE_S,
    client,
    model,
    running,
    scripted_server,
    stream,
    until,
    wanted,
)
from tests.support.served_app import ServedApp, serve_script

pytestmark = [pytest.mark.scale, pytest.mark.timeout(900)]

REPLICAS = "EngineReplica"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedApp]:
    folder = tmp_path_factory.mktemp("model")
    with serve_script(
        folder / "server.json", scripted_server(folder, model(folder, "small")), num_cpus=None
    ) as app:
        yield app


async def until_nodes(served: ServedApp, number: int) -> float:
    """Wait until the cluster has so many nodes; return the seconds that took."""
    begin_s = time.monotonic()
    while (found := await asyncio.to_thread(served.ask, "nodes")) != number:
        assert time.monotonic() - begin_s < PATIENCE_S, f"{found} nodes"
        await asyncio.sleep(0.25)
    return time.monotonic() - begin_s


async def test_nodes_come_for_replicas_that_have_no_room_and_go_with_them(served):
    assert await asyncio.to_thread(served.ask, "nodes") == 1
    async with client(served) as http:
        load = asyncio.gather(*(stream(http, "small", number, 400) for number in range(12)))
        decided_s = await until(served, lambda states: wanted(states, REPLICAS) == 3)
        added_s = decided_s + await until_nodes(served, 1 + MAX_WORKERS)
        ready_s = added_s + await until(served, lambda states: running(states, REPLICAS) == 3)
        assert await load == [None] * 12
        down_s = await until(served, lambda states: states[REPLICAS] == {"RUNNING": 1})
        gone_s = down_s + await until_nodes(served, 1)
        assert await stream(http, "small", 100, 12) is None
    print(
        f"\ndecided {decided_s:.1f} s, nodes added {added_s:.1f} s, ready {ready_s:.1f} s, "
        f"one replica {down_s:.1f} s, one node {gone_s:.1f} s"
    )
