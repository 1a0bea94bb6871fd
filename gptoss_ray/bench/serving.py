"""Measures a running server through HTTP and gRPC: first token, tokens per second, at several loads.

A closed loop: each of `concurrency` clients sends its next request when its last one ended. Time to
first token runs from sending a request to its first streamed piece of reasoning or content; time per
output token is (end - first token) / (tokens - 1), with the tokens the server counts in `usage`.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

import grpc
import httpx

from gptoss_ray.bench.timings import percentile
from gptoss_ray.http_client import async_sse_events, bearer
from gptoss_ray.protos.gptoss.v1 import chat_pb2, chat_pb2_grpc, common_pb2

QUESTIONS = (
    "What is 17 + 25?",
    "What is the capital of France?",
    "Count from 3 to 9.",
    "What is 81 - 46?",
    "What is the capital of Japan?",
)


@dataclass(frozen=True)
class Sample:
    """One answered request: seconds to the first token, in total, and tokens in the answer."""

    first_token_s: float
    total_s: float
    num_tokens: int

    @property
    def per_token_s(self) -> float:
        """Seconds per output token behind the first."""
        return (self.total_s - self.first_token_s) / max(1, self.num_tokens - 1)


@dataclass(frozen=True)
class LoadResult:
    """What one protocol did at one load."""

    protocol: str
    concurrency: int
    samples: tuple[Sample, ...]
    wall_s: float

    def row(self) -> dict[str, float | int | str]:
        """Return the figures that are printed: milliseconds and tokens per second."""
        first_s = [sample.first_token_s for sample in self.samples]
        return {
            "protocol": self.protocol,
            "clients": self.concurrency,
            "requests": len(self.samples),
            "first_token_p50_ms": round(statistics.median(first_s) * 1e3, 1),
            "first_token_p99_ms": round(percentile(first_s, 0.99) * 1e3, 1),
            "per_token_p50_ms": round(
                statistics.median(sample.per_token_s for sample in self.samples) * 1e3, 2
            ),
            "tokens_per_s": round(sum(sample.num_tokens for sample in self.samples) / self.wall_s, 1),
        }


Ask = Callable[[str], Awaitable[Sample]]


async def closed_loop(protocol: str, ask: Ask, *, concurrency: int, num_requests: int) -> LoadResult:
    """Send `num_requests` questions from `concurrency` clients and return the samples."""
    questions = iter([QUESTIONS[index % len(QUESTIONS)] for index in range(num_requests)])
    samples: list[Sample] = []

    async def client() -> None:
        for question in questions:
            samples.append(await ask(question))

    start = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(min(concurrency, num_requests))))
    return LoadResult(protocol, concurrency, tuple(samples), time.perf_counter() - start)


async def ask_http(http: httpx.AsyncClient, model: str, question: str) -> Sample:
    """Ask over HTTP, streamed; raise GptossError if the server refuses or breaks off."""
    body = {
        "model": model,
        "messages": [{"role": "user", "content": question}],
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }

    async def pieces() -> AsyncIterator[tuple[bool, int]]:
        async with http.stream("POST", "/v1/chat/completions", json=body) as response:
            async for event in async_sse_events(response):
                deltas = [choice["delta"] for choice in event["choices"]]
                has_text = any(delta.get("content") or delta.get("reasoning") for delta in deltas)
                yield has_text, (event.get("usage") or {}).get("completion_tokens", 0)

    return await _timed(pieces())


async def ask_grpc(
    stub: chat_pb2_grpc.ChatServiceStub, metadata: tuple[tuple[str, str], ...], model: str, question: str
) -> Sample:
    """Ask over gRPC, streamed; raise grpc.aio.AioRpcError if the server refuses or breaks off."""
    request = chat_pb2.ChatRequest(
        model=model,
        messages=[chat_pb2.Message(role=chat_pb2.ROLE_USER, content=question)],
        sampling=common_pb2.SamplingParams(temperature=0),
    )

    async def pieces() -> AsyncIterator[tuple[bool, int]]:
        async for message in stub.StreamChat(chat_pb2.StreamChatRequest(chat=request), metadata=metadata):
            yield bool(message.choice.content or message.choice.reasoning), message.usage.completion_tokens

    return await _timed(pieces())


async def _timed(pieces: AsyncIterator[tuple[bool, int]]) -> Sample:
    """Consume (carries text, tokens counted so far or 0) pieces and time them."""
    start = time.perf_counter()
    first: float | None = None
    num_tokens = 0
    async for has_text, counted in pieces:
        if has_text and first is None:
            first = time.perf_counter()
        num_tokens = max(num_tokens, counted)
    end = time.perf_counter()
    return Sample((first or end) - start, end - start, num_tokens)


async def measure(
    url: str,
    grpc_address: str,
    model: str,
    *,
    api_key: str,
    concurrencies: tuple[int, ...],
    requests_per_client: int,
    on_result: Callable[[LoadResult], None],
) -> list[LoadResult]:
    """Measure both protocols at each load; one round of warm-up each goes before and is not counted."""
    headers = bearer(api_key)
    metadata = tuple(headers.items())
    limits = httpx.Limits(max_connections=None)
    results = []
    async with (
        httpx.AsyncClient(base_url=url, headers=headers, timeout=600.0, limits=limits) as http,
        grpc.aio.insecure_channel(grpc_address) as channel,
    ):
        stub = chat_pb2_grpc.ChatServiceStub(channel)
        protocols: dict[str, Ask] = {
            "HTTP": lambda question: ask_http(http, model, question),
            "gRPC": lambda question: ask_grpc(stub, metadata, model, question),
        }
        for concurrency in concurrencies:
            for protocol, ask in protocols.items():
                await closed_loop(protocol, ask, concurrency=concurrency, num_requests=concurrency)
                num_requests = max(8, concurrency * requests_per_client)
                result = await closed_loop(protocol, ask, concurrency=concurrency, num_requests=num_requests)
                on_result(result)
                results.append(result)
    return results
