"""Two models on a real Serve, each with as many replicas as its load needs.

Engines replay scripts, so that a replica costs a process and no CPU. How long things took is printed, and
stands in docs/reliability.md; no time decides anything here but that it ends.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest

from gptoss_ray.checkpoint.model_config import ModelConfig
from gptoss_ray.config import EngineConfig, ScalingConfig, ServedModelConfig, ServingConfig
from gptoss_ray.serving.free_ports import free_ports
from gptoss_ray.serving.scripted_options import ScriptedAnswers, ScriptedServer, ScriptedServing
from tests.support.served_app import ServedApp, serve_script

pytestmark = [pytest.mark.scale, pytest.mark.timeout(900)]

STEP_S = 0.1
SMALL, LARGE = "EngineReplica-small", "EngineReplica-large"
PATIENCE_S = 240.0


def model(folder: Path, name: str, **scaling: float) -> ServedModelConfig:
    engine = EngineConfig(max_num_sequences=4, kv_cache_bytes=64 << 20)
    config = ScalingConfig.model_validate(
        {"max_replicas": 3, "target_running": 1.0, "up_delay_s": 1, "down_delay_s": 8, "zero_delay_s": 8}
        | scaling
    )
    return ServedModelConfig(name=name, checkpoint=str(folder), engine=engine, scaling=config)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedApp]:
    folder = tmp_path_factory.mktemp("models")
    shape = ModelConfig.published("gpt-oss-20b").replace(
        num_layers=2, hidden_size=64, intermediate_size=64, num_experts=4
    )
    (folder / "config.json").write_text(json.dumps(shape.to_json("huggingface")), encoding="utf-8")
    models = (model(folder, "small"), model(folder, "large", min_replicas=0))
    serving = ServingConfig(models=models)
    http_port, grpc_port = free_ports(2)
    answers = {name: ScriptedAnswers(step_s=STEP_S) for name in ("small", "large")}
    application = ScriptedServing(serving=serving, answers=answers)
    server = ScriptedServer(http_port=http_port, grpc_port=grpc_port, application=application)
    with serve_script(folder / "server.json", server, num_cpus=16) as app:
        yield app


@asynccontextmanager
async def client(served: ServedApp) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=served.base_url, timeout=PATIENCE_S) as http:
        yield http


async def stream(http: httpx.AsyncClient, name: str, number: int, num_tokens: int) -> str | None:
    """Read a stream to its end; return what is wrong with it."""
    body = {
        "model": name,
        "messages": [{"role": "user", "content": f"Number {number} of many."}],
        "max_tokens": num_tokens,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    text, usage = "", None
    async with http.stream("POST", "/v1/chat/completions", json=body) as response:
        if response.status_code != 200:
            return f"HTTP {response.status_code}: {(await response.aread()).decode()}"
        async for line in response.aiter_lines():
            if line == "data: [DONE]":
                break
            if line.startswith("data: "):
                event = json.loads(line.removeprefix("data: "))
                usage = event.get("usage") or usage
                text += "".join(choice["delta"].get("content") or "" for choice in event["choices"])
        else:
            return "no [DONE]"
    if usage is None or usage["completion_tokens"] != num_tokens or set(text) != {"x"}:
        return f"{usage} of {num_tokens}: {text[-20:]!r}"
    return None


def running(states: dict[str, dict[str, int]], name: str) -> int:
    return states[name].get("RUNNING", 0)


def wanted(states: dict[str, dict[str, int]], name: str) -> int:
    return sum(num for state, num in states[name].items() if state != "STOPPING")


async def until(served: ServedApp, is_so: Callable[[dict[str, dict[str, int]]], bool]) -> float:
    """Wait until the replicas are so; return the seconds that took."""
    begin_s = time.monotonic()
    while True:
        states = await asyncio.to_thread(served.ask, "replicas")
        if is_so(states):
            return time.monotonic() - begin_s
        assert time.monotonic() - begin_s < PATIENCE_S, states
        await asyncio.sleep(0.25)


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
