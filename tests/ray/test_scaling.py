"""Two models on a real Serve, each with as many replicas as its load needs.

Engines replay scripts, so that a replica costs a process and no CPU. How long things took is printed, and
stands in docs/reliability.md; no time decides anything here but that it ends.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator

import pytest

from tests.support.scaling_load import client, model, running, scripted_server, stream, until, wanted
from tests.support.served_app import ServedApp, serve_script

pytestmark = [pytest.mark.scale, pytest.mark.timeout(900)]

SMALL, LARGE = "EngineReplica-small", "EngineReplica-large"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedApp]:
    folder = tmp_path_factory.mktemp("models")
    server = scripted_server(folder, model(folder, "small"), model(folder, "large", min_replicas=0))
    with serve_script(folder / "server.json", server, num_cpus=16) as app:
        yield app


async def test_each_model_has_the_replicas_that_its_own_load_needs_and_no_stream_is_cut(served):
    took_s: dict[str, float] = {}
    async with client(served) as http:
        # 12 streams fill three replicas; the other model has nothing to do, though all its figures are read.
        load = asyncio.gather(*(stream(http, "small", number, 300) for number in range(12)))
        took_s["decided"] = await until(served, lambda states: wanted(states, SMALL) == 3)
        took_s["ready"] = took_s["decided"] + await until(served, lambda states: running(states, SMALL) == 3)
        looks = [await http.get(path) for _ in range(3) for path in ("/metrics", "/ready", "/v1/models")]
        assert {look.status_code for look in looks} == {200}
        await until(served, lambda states: states[LARGE] == {})
        assert await load == [None] * 12

        # Three of them go on, one on each replica: one replica would be enough.
        rest = asyncio.gather(*(stream(http, "small", 100 + number, 600) for number in range(3)))
        took_s["down"] = await until(served, lambda states: wanted(states, SMALL) == 1)
        assert await rest == [None] * 3
        await until(served, lambda states: states[SMALL] == {"RUNNING": 1})
    print("\n" + ", ".join(f"{what} {seconds:.1f} s" for what, seconds in took_s.items()))


async def test_a_model_without_replicas_starts_no_sooner_than_it_is_asked_and_holds_the_first_request(served):
    async with client(served) as http:
        await until(served, lambda states: states[LARGE] == {})
        for _ in range(8):
            ready, metrics = await http.get("/ready"), await http.get("/metrics")
            assert ready.status_code == metrics.status_code == 200
            await asyncio.sleep(0.5)
        assert (await asyncio.to_thread(served.ask, "replicas"))[LARGE] == {}
        begin_s = time.monotonic()
        held = await asyncio.gather(*(stream(http, "large", number, 12) for number in range(4)))
        assert held == [None] * 4
        print(f"\nheld for {time.monotonic() - begin_s:.1f} s")
        states = await asyncio.to_thread(served.ask, "replicas")
        assert running(states, LARGE) == 1
        assert wanted(states, SMALL) == 1
        await until(served, lambda states: states[LARGE] == {})
