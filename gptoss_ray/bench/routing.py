"""Measures what the choice of a replica is worth: the same conversations under two routers, all of it real.

Each router gets a server of its own with equal replicas, a rank and a thread each, of a small model with
random weights. A replica's cache holds its share of the conversations and a half more, not all of them: that
is how it is where several replicas are needed. So many users talk at once; each waits for an answer, thinks,
and goes on.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import httpx
import yaml

from gptoss_ray.bench.multi_turn_trace import MultiTurnTrace
from gptoss_ray.bench.routing_report import RoutedTrace, RoutingReport, Turn
from gptoss_ray.checkpoint.model_config import ModelConfig, alternating_layer_types
from gptoss_ray.checkpoint.synthetic import tiny_config, write_checkpoint
from gptoss_ray.config import EngineConfig, ServedModelConfig, ServingConfig
from gptoss_ray.errors import UnavailableError
from gptoss_ray.http_client import async_sse_events
from gptoss_ray.planner.kv import blocks_per_sequence, bytes_per_block
from gptoss_ray.serving.free_ports import LOOPBACK, free_ports
from gptoss_ray.serving.loopback_schema import loopback_schema

Router = Literal["load", "prefix"]

_MODEL = "routed"
_NAMES: dict[Router, str] = {"load": "Serve's, by load", "prefix": "ours, by prefix and load"}
_READY = "Ctrl-C stops the server."
_ANSWER_TOKENS = 8
_PATIENCE_S = 600.0
_CACHE_FACTOR = 1.5


@dataclass(frozen=True)
class RoutingBench:
    """What to measure.

    Attributes:
        trace: What users send.
        num_users: Conversations at once.
        num_replicas: That answer.
    """

    trace: MultiTurnTrace = field(default_factory=MultiTurnTrace)
    num_users: int = 6
    num_replicas: int = 2


def run(bench: RoutingBench, note: Callable[[str], None] = lambda _: None) -> RoutingReport:
    """Measure both routers, one after the other.

    Raises:
        UnavailableError: A server did not start, or broke off.
    """
    with tempfile.TemporaryDirectory(prefix="gptoss-") as folder:
        model = _shape()
        note("writing a checkpoint")
        write_checkpoint(Path(folder) / "checkpoint", model)
        return RoutingReport(*(_measure(bench, model, Path(folder), router, note) for router in _NAMES))


def _shape() -> ModelConfig:
    """Return a model whose prompts take time: a second for some thousand tokens on one CPU."""
    return tiny_config(
        vocab_size=201_088,
        eos_token_ids=(200_002, 200_012),
        hidden_size=256,
        intermediate_size=256,
        num_layers=8,
        num_attention_heads=16,
        num_key_value_heads=4,
        head_dim=64,
        sliding_window=128,
        layer_types=alternating_layer_types(8),
    )


def _measure(
    bench: RoutingBench, model: ModelConfig, folder: Path, router: Router, note: Callable[[str], None]
) -> RoutedTrace:
    note(f"starting {bench.num_replicas} replicas; router: {_NAMES[router]}")
    http_port, grpc_port = free_ports(2)
    schema = _schema(bench, model, folder / "checkpoint", router, http_port, grpc_port)
    path = folder / f"{router}.yaml"
    path.write_text(yaml.safe_dump(schema), encoding="utf-8")
    with _server(path, bench.num_replicas):
        note(f"{bench.trace.num_conversations} conversations of {bench.trace.num_turns} turns")
        return asyncio.run(_send(bench, f"http://{LOOPBACK}:{http_port}", router))


def _schema(
    bench: RoutingBench, model: ModelConfig, checkpoint: Path, router: Router, http_port: int, grpc_port: int
) -> dict[str, object]:
    base = EngineConfig(dtype="bfloat16")
    num_held = _CACHE_FACTOR * bench.trace.num_conversations / bench.num_replicas
    blocks = blocks_per_sequence(model, base.kv_block_size, bench.trace.num_tokens + _ANSWER_TOKENS)
    engine = EngineConfig(
        kv_cache_bytes=round(num_held * blocks) * bytes_per_block(model, base.kv_block_size, 2),
        max_context=2 * bench.trace.num_tokens,
    )
    served = ServedModelConfig(name=_MODEL, checkpoint=str(checkpoint), engine=engine, routing=router)
    args = ServingConfig(models=(served,)).model_dump(mode="json", exclude_unset=True)
    replicas = {"name": "EngineReplica", "num_replicas": bench.num_replicas}
    return loopback_schema(http_port, grpc_port, args, name="gptoss", deployments=[replicas])


@contextmanager
def _server(path: Path, num_replicas: int) -> Iterator[None]:
    """Serve a file until the block ends, on as many CPUs as it needs, whether they are there or not."""
    num_cpus = max(os.cpu_count() or 1, num_replicas)
    with subprocess.Popen(
        [sys.executable, "-m", "gptoss_ray.cli", "serve", str(path)],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"RAY_OVERRIDE_RESOURCES": json.dumps({"CPU": num_cpus})},
        # Ctrl-C is for this process, which then ends the server.
        start_new_session=True,
    ) as process:
        assert process.stdout is not None
        try:
            if not any(line.strip() == _READY for line in process.stdout):
                raise UnavailableError("the server did not start; see what it says")
            yield
        finally:
            process.terminate()
            process.wait()


async def _send(bench: RoutingBench, base_url: str, router: Router) -> RoutedTrace:
    """Send the whole trace; users take conversations in order."""
    turns: list[Turn] = []
    numbers = iter(range(bench.trace.num_conversations))
    async with httpx.AsyncClient(base_url=base_url, timeout=_PATIENCE_S) as http:

        async def talk() -> None:
            for number in numbers:
                prompts, pauses_s = bench.trace.prompts(number), bench.trace.pauses_s(number)
                for turn, (prompt, pause_s) in enumerate(zip(prompts, pauses_s, strict=True)):
                    await asyncio.sleep(pause_s)
                    turns.append(await _ask(http, turn, prompt))

        begin_s = time.monotonic()
        await asyncio.gather(*(talk() for _ in range(bench.num_users)))
    return RoutedTrace(_NAMES[router], turns, time.monotonic() - begin_s)


async def _ask(http: httpx.AsyncClient, turn: int, prompt: tuple[int, ...]) -> Turn:
    body = {
        "model": _MODEL,
        "prompt": list(prompt),
        "max_tokens": _ANSWER_TOKENS,
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    sent_s, first_s, usage = time.monotonic(), None, None
    async with http.stream("POST", "/v1/completions", json=body) as response:
        async for event in async_sse_events(response):
            if first_s is None:
                first_s = time.monotonic()
            usage = event.get("usage") or usage
    if first_s is None or usage is None:
        raise UnavailableError("the server broke off an answer")
    num_cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens", 0)
    return Turn(turn, first_s - sent_s, usage["prompt_tokens"], num_cached)
