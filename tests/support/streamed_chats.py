"""Many chats with the demo model at once: what each stream said, and when its pieces came."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import pairwise

import httpx

from tests.support.served_app import ServedApp

Fault = Callable[[], object]


@dataclass
class StreamedChat:
    """One streamed answer.

    Attributes:
        text: Reasoning and content, in the order in which they came.
        usage: What the last event told; None where it never came.
        problem: Why the stream is not whole, or nothing.
        moments_s: When each piece came, of the monotonic clock.
    """

    text: str = ""
    usage: dict[str, object] | None = None
    problem: str = ""
    moments_s: list[float] = field(default_factory=list)

    @property
    def longest_pause_s(self) -> float:
        """The longest time between two pieces."""
        return max((b - a for a, b in pairwise(self.moments_s)), default=0.0)

    @property
    def said(self) -> tuple[str, object, str]:
        """All that must not depend on what happens to the server."""
        usage = {k: v for k, v in (self.usage or {}).items() if k != "prompt_tokens_details"}
        return self.text, usage, self.problem


def question(number: int) -> list[dict[str, str]]:
    """A chat that is told apart from others by its answer."""
    if number % 2:
        return [{"role": "user", "content": f"What is {number} + {97 - number}?"}]
    return [
        {"role": "user", "content": f"My name is Zan{number}."},
        {"role": "assistant", "content": f"Nice to meet you, Zan{number}!"},
        {"role": "user", "content": "What is my name?"},
    ]


def body(number: int) -> dict[str, object]:
    """Half of the chats are greedy, half are drawn by a seed."""
    return {
        "model": "tiny",
        "messages": question(number),
        "temperature": 0 if number % 4 < 2 else 0.7,
        "seed": number,
        "reasoning_effort": "high",
        "stream": True,
        "stream_options": {"include_usage": True},
    }


@asynccontextmanager
async def client(served: ServedApp, num_connections: int = 200):
    """A client with enough connections, patient enough for a replica that is replaced."""
    limits = httpx.Limits(max_connections=num_connections)
    async with httpx.AsyncClient(
        base_url=served.base_url, headers=served.headers, timeout=300, limits=limits
    ) as http:
        yield http


async def stream_chat(
    http: httpx.AsyncClient, number: int, note_piece: Callable[[], None] = lambda: None
) -> StreamedChat:
    """Stream one chat to its end, whatever that is."""
    chat, is_done = StreamedChat(), False
    try:
        async with http.stream("POST", "/v1/chat/completions", json=body(number)) as response:
            if response.status_code != 200:
                await response.aread()
                chat.problem = f"HTTP {response.status_code}: {response.text}"
                return chat
            async for line in response.aiter_lines():
                is_done |= line == "data: [DONE]"
                if line.startswith("data: {"):
                    _take(chat, json.loads(line.removeprefix("data: ")))
                    note_piece()
    except httpx.HTTPError as error:
        chat.problem = f"{type(error).__name__}: {error}"
        return chat
    if not is_done:
        chat.problem = chat.problem or "the stream ended without [DONE]"
    return chat


def _take(chat: StreamedChat, event: dict) -> None:
    chat.moments_s.append(time.monotonic())
    if "error" in event:
        chat.problem = str(event["error"])
        return
    chat.usage = event["usage"] or chat.usage
    for choice in event["choices"]:
        chat.text += choice["delta"].get("reasoning") or ""
        chat.text += choice["delta"].get("content") or ""


async def stream_chats(
    http: httpx.AsyncClient, numbers: Sequence[int], faults: Sequence[tuple[int, Fault]] = ()
) -> list[StreamedChat]:
    """Stream chats at the same time.

    Each fault happens once so many pieces have come over all streams, in the order given; that every one
    of them did is asserted.
    """
    num_pieces, waiting = 0, list(faults)
    happening: list[Awaitable[object]] = []

    def note_piece() -> None:
        nonlocal num_pieces
        num_pieces += 1
        while waiting and num_pieces >= waiting[0][0]:
            happening.append(asyncio.to_thread(waiting.pop(0)[1]))

    chats = await asyncio.gather(*(stream_chat(http, number, note_piece) for number in numbers))
    await asyncio.gather(*happening)
    assert not waiting, f"{len(waiting)} fault(s) never happened: only {num_pieces} pieces came"
    return list(chats)


def print_pauses(title: str, chats: Sequence[StreamedChat]) -> None:
    """Print the longest pauses of the streams, as docs/reliability.md shows them."""
    pauses = sorted(chat.longest_pause_s for chat in chats)
    p50, p99 = pauses[len(pauses) // 2], pauses[int(len(pauses) * 0.99)]
    print(f"\n| {title} | {len(pauses)} | {p50:.2f} s | {p99:.2f} s | {pauses[-1]:.2f} s |")
