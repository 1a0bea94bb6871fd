from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.support.served_app import ServedApp, serve_app, write_config
from tests.support.streamed_answers import chat, client, stream_one

NUM_CHATS = 64
WARM_UP_S = 15
SOAK_S = 60
MAX_GROWTH_BYTES = 24 << 20

pytestmark = [pytest.mark.soak, pytest.mark.timeout(600)]


@pytest.fixture
def served_demo(tmp_path: Path) -> Iterator[ServedApp]:
    with serve_app(write_config(tmp_path / "serve.yaml", "demo")) as app:
        yield app


async def whole_text(http: httpx.AsyncClient, number: int) -> str:
    """Return one streamed answer; any error of the server fails the test."""
    answer = await stream_one(http, chat(number))
    assert not answer.problem
    return answer.text


def memory_bytes(served: ServedApp) -> dict[str, int]:
    """Private memory of the processes that carry requests, by title."""
    titles = ("EngineRank", "EngineReplica", "Ingress", "ProxyActor")
    return {title: process.memory_full_info().uss for title in titles for process in served.processes(title)}


async def test_64_streaming_chats_for_a_minute_make_no_error_mix_no_text_and_leak_nothing(served_demo):
    async with client(served_demo, NUM_CHATS) as http:
        alone = [await whole_text(http, number) for number in range(NUM_CHATS)]
        assert len(set(alone)) > NUM_CHATS / 2, "the questions must tell streams apart"

        async def ask_until(end: float, number: int) -> int:
            num_answers = 0
            while time.monotonic() < end:
                assert await whole_text(http, number) == alone[number]
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
