"""Measures what Serve and the ingress cost: everything is real but the engine, which replays a script.

Each mode of Serve has a server of its own, on loopback: one ingress replica before two models, each a
replica with a rank in a process of its own. The engine of one makes a step at a steady rate, the other as
many as it can.

A token's delay runs from its draw in the engine to the moment at which the client's process has read it.
The engine's side comes out of a file (`engine/stamped_script.py`): the script writes down when each of its
tokens was drawn, and the client finds its answer there by the id that every answer has. So nothing is added
to a token on its way, and the moments are real ones, not those of a plan. Processes of one machine share the
monotonic clock. All streams get their token in the same step, as those of a real engine do: the median is
of a burst of one token for each stream, and the client's own work for them is in it.

For the maximum, every client asks for its next answer when the last one has ended. A rank drops a reader
that is too far behind, so the answers of all clients together are no longer than it may be.
"""

from __future__ import annotations

import asyncio
import json
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
import httpx

from gptoss_ray.bench.hostile_bodies import HOSTILE_TEXTS, hostile_bodies
from gptoss_ray.bench.ingress_report import (
    HostileResult,
    IngressReport,
    Maximum,
    Overhead,
    greatest_gap_s,
    timed,
)
from gptoss_ray.bench.scripted_process import scripted_process
from gptoss_ray.bench.streaming_clients import (
    GrpcStreams,
    HttpStreams,
    Piece,
    StreamedAnswer,
    StreamingClient,
)
from gptoss_ray.checkpoint.model_config import ModelConfig
from gptoss_ray.config import EngineConfig, ServedModelConfig, ServingConfig
from gptoss_ray.engine.stamped_script import read_stamps
from gptoss_ray.ranks.sink_outbox import MAX_BUFFERED_OUTPUTS
from gptoss_ray.serving.free_ports import LOOPBACK, free_ports
from gptoss_ray.serving.haproxy import ENABLE_VARIABLE, find_haproxy, haproxy_environment
from gptoss_ray.serving.scripted_options import ScriptedAnswers, ScriptedServer, ScriptedServing

DEFAULT, HAPROXY, HAPROXY_OPTIMIZED = "default", "haproxy", "haproxy-optimized"
MODES = (DEFAULT, HAPROXY, HAPROXY_OPTIMIZED)
"""Serve's own proxies; HAProxy; HAProxy and what else Serve offers for throughput."""

_PACED, _UNPACED = "paced", "unpaced"
_ANSWER_TOKENS = 256
_NUM_POSTS = 3
_SETTLED_PIECES = 8
_QUIET_S = 1.0
_PATIENCE_S = 60.0


@dataclass(frozen=True)
class IngressBench:
    """What to measure.

    Attributes:
        modes: Of Serve, see `MODES`.
        num_streams: At once.
        rate: Tokens per second of each stream where the delay is measured, and of the steady stream.
        seconds: How long a measure of either kind takes.
    """

    modes: tuple[str, ...] = (DEFAULT, HAPROXY)
    num_streams: int = 32
    rate: float = 20.0
    seconds: float = 10.0


def run(bench: IngressBench, note: Callable[[str], None] = lambda _: None) -> IngressReport:
    """Measure each mode.

    Raises:
        UnavailableError: A server did not start.
        GptossError: A stream was refused, broke off, or lost a token.
    """
    report = IngressReport(bench.num_streams, bench.rate)
    for mode in bench.modes:
        with tempfile.TemporaryDirectory(prefix="gptoss-") as folder:
            environment = _environment(mode, Path(folder))
            if environment is None:
                report.not_measured[mode] = "there is no HAProxy here; it comes with ray[serve] on Linux"
                continue
            note(f"{mode}: starting a server over scripted engines")
            server = _server(bench, Path(folder))
            with scripted_process(server, environment):
                asyncio.run(_measure(bench, mode, server, report, note))
    return report


def _environment(mode: str, folder: Path) -> Mapping[str, str] | None:
    """Return what Serve's environment has in a mode; None where this machine cannot run it."""
    throughput = {"RAY_SERVE_THROUGHPUT_OPTIMIZED": "1" if mode == HAPROXY_OPTIMIZED else "0"}
    if mode == DEFAULT:
        return {ENABLE_VARIABLE: "0", **throughput}
    binary = find_haproxy()
    return None if binary is None else {**haproxy_environment(binary, folder), **throughput}


def _server(bench: IngressBench, folder: Path) -> ScriptedServer:
    """Return two models of the published vocabulary and context; they have no weights."""
    shape = ModelConfig.published("gpt-oss-20b").replace(
        num_layers=2, hidden_size=64, intermediate_size=64, num_experts=4
    )
    (folder / "config.json").write_text(json.dumps(shape.to_json("huggingface")), encoding="utf-8")
    # Scripts fill no cache, but a replica reckons with one before it lets a request through.
    engine = EngineConfig(
        kv_cache_bytes=bench.num_streams * (8 << 20), max_num_sequences=2 * bench.num_streams
    )
    answers = {
        _PACED: ScriptedAnswers(step_s=1 / bench.rate, stamps=folder / "stamps"),
        _UNPACED: ScriptedAnswers(),
    }
    models = tuple(ServedModelConfig(name=name, checkpoint=str(folder), engine=engine) for name in answers)
    http_port, grpc_port = free_ports(2)
    application = ScriptedServing(serving=ServingConfig(models=models), answers=answers)
    return ScriptedServer(http_port=http_port, grpc_port=grpc_port, application=application)


async def _measure(
    bench: IngressBench, mode: str, server: ScriptedServer, report: IngressReport, note: Callable[[str], None]
) -> None:
    stamps = server.application.answers[_PACED].stamps
    assert stamps is not None
    async with grpc.aio.insecure_channel(f"{LOOPBACK}:{server.grpc_port}") as channel:
        http = HttpStreams(LOOPBACK, server.http_port)
        clients: tuple[StreamingClient, ...] = (http, GrpcStreams(channel))
        for client in clients:
            await _first_answers(client)
        for client in clients:
            note(f"{mode}, {client.protocol}: delay of tokens")
            answers = await _steady(bench, client)
            together = timed(answers, read_stamps(stamps))
            report.overhead.append(Overhead(mode, client.protocol, bench.rate, together))
        for client in clients:
            note(f"{mode}, {client.protocol}: most tokens/s")
            report.maximum.append(await _most(bench, mode, client))
        note(f"{mode}: hostile bodies")
        report.hostile += await _hostile(mode, http, f"http://{LOOPBACK}:{server.http_port}")


async def _first_answers(client: StreamingClient) -> None:
    """Have each model answer once, which does not count."""
    for model in (_PACED, _UNPACED):
        await _ask(client, model, 8)


async def _ask(client: StreamingClient, model: str, max_tokens: int) -> StreamedAnswer:
    pieces: list[Piece] = []
    await client.record(model, max_tokens, pieces)
    return client.read(pieces)


async def _steady(bench: IngressBench, client: StreamingClient) -> list[StreamedAnswer]:
    """Stream one answer each; a short one before, in which connections are made, does not count."""
    num_tokens = max(16, round(bench.rate * bench.seconds))
    for max_tokens in (16, num_tokens):
        streams: list[list[Piece]] = [[] for _ in range(bench.num_streams)]
        await asyncio.gather(*(client.record(_PACED, max_tokens, pieces) for pieces in streams))
    return [client.read(pieces) for pieces in streams]


async def _most(bench: IngressBench, mode: str, client: StreamingClient) -> Maximum:
    """Stream answer after answer."""
    max_tokens = min(_ANSWER_TOKENS, MAX_BUFFERED_OUTPUTS // bench.num_streams)
    streams: list[list[Piece]] = []
    began_s, began_cpu_s = time.monotonic(), time.process_time()

    async def ask_on() -> None:
        while time.monotonic() < began_s + bench.seconds:
            pieces: list[Piece] = []
            streams.append(pieces)
            await client.record(_UNPACED, max_tokens, pieces)

    await asyncio.gather(*(ask_on() for _ in range(bench.num_streams)))
    wall_s, client_cpu_s = time.monotonic() - began_s, time.process_time() - began_cpu_s
    num_tokens = sum(len(client.read(pieces).moments_s) for pieces in streams)
    return Maximum(mode, client.protocol, bench.num_streams, num_tokens, wall_s, client_cpu_s)


@dataclass(frozen=True)
class _Posts:
    """Answers to one body, one after the other."""

    begin_s: float
    end_s: float
    statuses: tuple[int, ...] = ()
    seconds: tuple[float, ...] = ()


async def _hostile(mode: str, client: StreamingClient, base_url: str) -> list[HostileResult]:
    """Post each body to each path while a stream goes on."""
    posts: dict[tuple[str, str], _Posts] = {}
    async with (
        _steady_stream(client) as moments_s,
        httpx.AsyncClient(base_url=base_url, timeout=_PATIENCE_S) as http,
    ):
        begin_s = time.monotonic()
        await asyncio.sleep(_QUIET_S)
        posts["nothing", ""] = _Posts(begin_s, time.monotonic())
        for name, text in HOSTILE_TEXTS.items():
            for path, body in hostile_bodies(text, _UNPACED).items():
                posts[name, path] = await _post(http, path, body)
        await asyncio.sleep(_QUIET_S)
    return [
        HostileResult(
            mode, name, path, each.statuses, each.seconds, greatest_gap_s(moments_s, each.begin_s, each.end_s)
        )
        for (name, path), each in posts.items()
    ]


@asynccontextmanager
async def _steady_stream(client: StreamingClient) -> AsyncIterator[list[float]]:
    """Stream from the paced engine inside the block; the list has the moments once it has ended."""
    pieces: list[Piece] = []
    moments_s: list[float] = []
    stream = asyncio.create_task(client.record(_PACED, 1 << 16, pieces))
    try:
        while len(pieces) < _SETTLED_PIECES and not stream.done():
            await asyncio.sleep(0.01)
        yield moments_s
    finally:
        stream.cancel()
        await asyncio.gather(stream, return_exceptions=True)
    moments_s += (moment_s for moment_s, _ in pieces)


async def _post(http: httpx.AsyncClient, path: str, body: bytes) -> _Posts:
    statuses, seconds = list[int](), list[float]()
    begin_s = time.monotonic()
    for _ in range(_NUM_POSTS):
        sent_s = time.monotonic()
        response = await http.post(path, content=body, headers={"content-type": "application/json"})
        statuses.append(response.status_code)
        seconds.append(time.monotonic() - sent_s)
    return _Posts(begin_s, time.monotonic(), tuple(statuses), tuple(seconds))
