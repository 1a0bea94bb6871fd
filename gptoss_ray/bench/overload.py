"""Measures what a server does with more requests than it can answer: all is real but the engine.

The engine replays a script, a step at a steady rate with a bounded number of seats. Its peak is measured
first, by clients of which some always wait and each asks again when it is answered. Then requests come at
random moments (Poisson), `factor` times as many, whatever becomes of those before. Two keys of equal shares
send them, one of them four fifths. Both phases leave out a stretch in which the queue fills.
"""

from __future__ import annotations

import asyncio
import json
import random
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from gptoss_ray.bench.overload_report import Load, Outcome, OverloadReport
from gptoss_ray.bench.scripted_process import scripted_process
from gptoss_ray.checkpoint.model_config import ModelConfig
from gptoss_ray.config import EngineConfig, ServedModelConfig, ServingConfig
from gptoss_ray.errors import UnavailableError
from gptoss_ray.http_client import bearer
from gptoss_ray.serving.auth import key_digest
from gptoss_ray.serving.free_ports import LOOPBACK, free_ports
from gptoss_ray.serving.haproxy import ENABLE_VARIABLE, find_haproxy, haproxy_environment
from gptoss_ray.serving.scripted_options import ScriptedAnswers, ScriptedServer, ScriptedServing

_MODEL = "scripted"
_LOUD, _QUIET = "loud", "quiet"
_LOUD_PART = 0.8
_PATIENCE_S = 120.0
_SEED = 7


@dataclass(frozen=True)
class OverloadBench:
    """What to measure.

    Attributes:
        num_seats: Requests that the engine works on at once.
        num_queued: Requests that may wait.
        num_tokens: Of each answer.
        step_s: How long the engine takes for a token of all its requests.
        factor: How many times more requests than are answered at the peak.
        seconds: How long each phase is measured.
        uses_haproxy: Whether HAProxy stands in the place of Serve's own proxy.
    """

    num_seats: int = 16
    num_queued: int = 32
    num_tokens: int = 64
    step_s: float = 0.025
    factor: float = 5.0
    seconds: float = 20.0
    uses_haproxy: bool = False

    @property
    def answer_s(self) -> float:
        """How long an answer takes where nobody waits."""
        return self.num_tokens * self.step_s


def run(bench: OverloadBench, note: Callable[[str], None] = lambda _: None) -> OverloadReport:
    """Start a server, find its peak, and overload it.

    Raises:
        UnavailableError: The server did not start, or there is no HAProxy.
    """
    with tempfile.TemporaryDirectory(prefix="gptoss-") as folder:
        note("starting a server over a scripted engine")
        server = _server(bench, Path(folder))
        with scripted_process(server, _environment(bench, Path(folder))):
            return asyncio.run(_measure(bench, f"http://{LOOPBACK}:{server.http_port}", note))


def _environment(bench: OverloadBench, folder: Path) -> dict[str, str]:
    binary = find_haproxy() if bench.uses_haproxy else None
    return {ENABLE_VARIABLE: "0"} if binary is None else haproxy_environment(binary, folder)


def _server(bench: OverloadBench, folder: Path) -> ScriptedServer:
    """Return a model of the published vocabulary and context; it has no weights."""
    shape = ModelConfig.published("gpt-oss-20b").replace(
        num_layers=2, hidden_size=64, intermediate_size=64, num_experts=4
    )
    (folder / "config.json").write_text(json.dumps(shape.to_json("huggingface")), encoding="utf-8")
    engine = EngineConfig(
        # Its script counts none: enough that seats are what there is too little of.
        kv_cache_bytes=bench.num_seats * (8 << 20),
        max_num_sequences=bench.num_seats,
        max_queued_requests=bench.num_queued,
    )
    model = ServedModelConfig(name=_MODEL, checkpoint=str(folder), engine=engine)
    keys = folder / "keys.yaml"
    keys.write_text("".join(f'{key}: {{sha256: "{key_digest(key)}"}}\n' for key in (_LOUD, _QUIET)))
    serving = ServingConfig(models=(model,), api_keys_file=str(keys))
    http_port, grpc_port = free_ports(2)
    answers = {_MODEL: ScriptedAnswers(step_s=bench.step_s)}
    return ScriptedServer(
        http_port=http_port,
        grpc_port=grpc_port,
        application=ScriptedServing(serving=serving, answers=answers),
    )


async def _measure(bench: OverloadBench, base_url: str, note: Callable[[str], None]) -> OverloadReport:
    # httpx, used elsewhere, looks through all its connections for each request: with hundreds of them
    # it would be late, and its lateness taken for the server's.
    connector = aiohttp.TCPConnector(limit=0)
    patience = aiohttp.ClientTimeout(total=_PATIENCE_S)
    async with aiohttp.ClientSession(base_url, connector=connector, timeout=patience) as http:
        client = _Client(http, bench.num_tokens)
        await client.ask(_QUIET)
        note("the peak")
        peak = await _at_peak(bench, client)
        _check(peak)
        rate = bench.factor * peak.requests_per_s
        note(f"{bench.factor:g} times as much: {rate:.0f} requests/s")
        overload = await _over_peak(bench, client, rate)
    return OverloadReport(peak, overload, bench.factor, _LOUD, _QUIET)


def _check(load: Load) -> None:
    """Refuse to go on from a peak at which nothing was answered."""
    if not load.num_of_status(200):
        statuses = sorted({each.status for each in load.outcomes})
        raise UnavailableError(f"the server answered nothing (statuses {statuses}); see what it says")


class _Client:
    """Asks, and keeps what became of it."""

    def __init__(self, http: aiohttp.ClientSession, num_tokens: int) -> None:
        self._http = http
        self._body = {
            "model": _MODEL,
            "messages": [{"role": "user", "content": "What comes next?"}],
            "max_tokens": num_tokens,
        }
        self.outcomes: list[Outcome] = []

    async def ask(self, key: str) -> None:
        """Send a request and wait for its end."""
        sent_s = time.monotonic()
        status, num_tokens = 0, 0
        try:
            async with self._http.post(
                "/v1/chat/completions", json=self._body, headers=bearer(key)
            ) as response:
                answer = await response.json()
            if response.status == 200:
                num_tokens = answer["usage"]["completion_tokens"]
            status = response.status
        except (aiohttp.ClientError, asyncio.TimeoutError):
            pass  # counted as failed, by its status of 0
        self.outcomes.append(Outcome(key, status, sent_s, time.monotonic(), num_tokens))

    def load(self, begin_s: float, end_s: float) -> Load:
        """Return what ended between two moments."""
        return Load(tuple(self.outcomes), begin_s, end_s)


async def _at_peak(bench: OverloadBench, client: _Client) -> Load:
    """Keep a request of each key waiting for every seat that gets free, so that none is ever empty."""
    begin_s = time.monotonic() + 2 * bench.answer_s
    end_s = begin_s + bench.seconds

    async def ask_again(key: str) -> None:
        while time.monotonic() < end_s:
            await client.ask(key)

    num_clients = bench.num_seats + bench.num_queued // 2
    await asyncio.gather(*(ask_again((_LOUD, _QUIET)[number % 2]) for number in range(num_clients)))
    return client.load(begin_s, end_s)


async def _over_peak(bench: OverloadBench, client: _Client, rate: float) -> Load:
    """Send at random moments, whatever becomes of what was sent before."""
    draw = random.Random(_SEED)
    next_s = time.monotonic()
    begin_s = next_s + 2 * bench.answer_s
    end_s = begin_s + bench.seconds
    asking: set[asyncio.Task[None]] = set()
    while next_s < end_s:
        await asyncio.sleep(max(0.0, next_s - time.monotonic()))
        task = asyncio.create_task(client.ask(_LOUD if draw.random() < _LOUD_PART else _QUIET))
        asking.add(task)
        task.add_done_callback(asking.discard)
        next_s += draw.expovariate(rate)
    await asyncio.gather(*asking)
    return client.load(begin_s, end_s)
