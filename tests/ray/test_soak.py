from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.support.served_app import ServedApp, serve_app, write_config

NUM_CHATS = 64
WARM_UP_S = 15
SOAK_S = 60
MAX_GROWTH_BYTES = 24 << 20

pytestmark = [pytest.mark.soak, pytest.mark.timeout(600)]


@pytest.fixture
def served_demo(tmp_path: Path) -> Iterator[ServedApp]:
    with serve_app(write_config(tmp_path / "serve.yaml", "demo")) as app:
        yield app


def question(number: int) -> list[dict[str, str]]:
    if number % 2:
        return [{"role": "user", "content": f"What is {number} + {97 - number}?"}]
    return [
        {"role": "user", "content": f"My name is Zan{number}."},
        {"role": "assistant", "content": f"Nice to meet you, Zan{number}!"},
        {"role": "user", "content": "What is my name?"},
    ]


async def stream_chat(client: httpx.AsyncClient, number: int) -> str:
    """Return reasoning and content of one streamed answer; any error of the server fails the test."""
    chat = {"model": "tiny", "messages": question(number), "temperature": 0, "stream": True}
    text, is_done = "", False
    async with client.stream("POST", "/v1/chat/completions", json=chat) as response:
        assert response.status_code == 200
        async for line in response.aiter_lines():
            is_done |= line == "data: [DONE]"
            if line.startswith("data: {"):
                for choice in json.loads(line.removeprefix("data: "))["choices"]:
                    text += choice["delta"].get("reasoning") or ""
                    text += choice["delta"].get("content") or ""
    assert is_done
    return text


def memory_bytes(served: ServedApp) -> dict[str, int]:
    """Private memory of the processes that carry requests, by title."""
    titles = ("EngineRank", "EngineReplica", "Ingress", "ProxyActor")
    return {title: process.memory_full_info().uss for title in titles for process in served.processes(title)}


async def test_64_streaming_chats_for_a_minute_make_no_error_mix_no_text_and_leak_nothing(served_demo):
    limits = httpx.Limits(max_connections=NUM_CHATS)
    async with httpx.AsyncClient(
        base_url=served_demo.base_url, headers=served_demo.headers, timeout=120, limits=limits
    ) as client:
        alone = [await stream_chat(client, number) for number in range(NUM_CHATS)]
        assert len(set(alone)) > NUM_CHATS / 2, "the questions must tell streams apart"

        async def ask_until(end: float, number: int) -> int:
            num_answers = 0
            while time.monotonic() < end:
                assert await stream_chat(client, number) == alone[number]
                num_answers += 1
            return num_answers

        async def load(seconds: float) -> int:
            end = time.monotonic() + seconds
            return sum(await asyncio.gather(*(ask_until(end, number) for number in range(NUM_CHATS))))

        await load(WARM_UP_S)
        before = memory_bytes(served_demo)
        num_answers = await load(SOAK_S)
        after = memory_bytes(served_demo)
    print(f"\n{num_answers} answers; MiB before and after:")
    for title, num_bytes in before.items():
        print(f"  {title}: {num_bytes >> 20} -> {after[title] >> 20}")
        assert after[title] - num_bytes < MAX_GROWTH_BYTES
    stats = served_demo.rank_stats()
    assert stats["engine"]["num_running"] == 0
    assert stats["engine"]["kv_cache_usage"] == 0
    assert stats["num_failed_steps"] == 0
