"""Streams from a server over scripts, and its replicas as they come and go, for tests of scaling."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import httpx

from gptoss_ray.checkpoint.model_config import ModelConfig
from gptoss_ray.config import EngineConfig, ScalingConfig, ServedModelConfig, ServingConfig
from gptoss_ray.serving.free_ports import free_ports
from gptoss_ray.serving.scripted_options import ScriptedAnswers, ScriptedServer, ScriptedServing
from tests.support.served_app import ServedApp

STEP_S = 0.1
PATIENCE_S = 240.0


def model(folder: Path, name: str, **scaling: float) -> ServedModelConfig:
    """Return a model of 4 seats a replica, up to 3 of them, that scales without much delay."""
    engine = EngineConfig(max_num_sequences=4, kv_cache_bytes=64 << 20)
    config = ScalingConfig.model_validate(
        {"max_replicas": 3, "target_running": 1.0, "up_delay_s": 1, "down_delay_s": 8, "zero_delay_s": 8}
        | scaling
    )
    return ServedModelConfig(name=name, checkpoint=str(folder), engine=engine, scaling=config)


def scripted_server(folder: Path, *models: ServedModelConfig) -> ScriptedServer:
    """Return a server of the models, whose folder gets a shape; their tokens come one a step."""
    shape = ModelConfig.published("gpt-oss-20b").replace(
        num_layers=2, hidden_size=64, intermediate_size=64, num_experts=4
    )
    (folder / "config.json").write_text(json.dumps(shape.to_json("huggingface")), encoding="utf-8")
    answers = {model.name: ScriptedAnswers(step_s=STEP_S) for model in models}
    application = ScriptedServing(serving=ServingConfig(models=models), answers=answers)
    http_port, grpc_port = free_ports(2)
    return ScriptedServer(http_port=http_port, grpc_port=grpc_port, application=application)


@asynccontextmanager
async def client(served: ServedApp) -> AsyncIterator[httpx.AsyncClient]:
    """Return a patient client of the server."""
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
    """Return how many replicas of a deployment answer."""
    return states[name].get("RUNNING", 0)


def wanted(states: dict[str, dict[str, int]], name: str) -> int:
    """Return how many there are or are to come."""
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
