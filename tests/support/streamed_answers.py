"""Many answers of the demo model streamed at once: what each said, and when its pieces came."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Protocol

import httpx

from gptoss_ray.bench.timings import percentile
from tests.support.served_app import ServedApp

Fault = Callable[[], object]


NUM_LONG_TOKENS = 200


@dataclass(frozen=True)
class Question:
    """A request that streams; `number` tells it apart from others of its kind."""

    number: int
    path: str
    body: dict[str, object]


@dataclass
class StreamedAnswer:
    """One streamed answer.

    Attributes:
        text: Reasoning and content, or a completion's text, in the order in which they came.
        logprobs: Of each token, where they were asked for.
        usage: What the last event told; None where it never came.
        problem: Why the stream is not whole, or nothing.
        moments_s: When each piece came, of the monotonic clock.
    """

    text: str = ""
    logprobs: list[float] = field(default_factory=list)
    usage: dict[str, object] | None = None
    problem: str = ""
    moments_s: list[float] = field(default_factory=list)

    @property
    def longest_pause_s(self) -> float:
        """The longest time between two pieces."""
        return max((b - a for a, b in pairwise(self.moments_s)), default=0.0)

    @property
    def said(self) -> tuple[object, ...]:
        """All that must not depend on what happens to the server."""
        usage = {k: v for k, v in (self.usage or {}).items() if k != "prompt_tokens_details"}
        return self.text, self.logprobs, usage, self.problem


def _question(number: int, path: str, fields: dict[str, object]) -> Question:
    """Half of the questions are greedy, half are drawn by a seed."""
    common = {
        "model": "tiny",
        "temperature": 0 if number % 4 < 2 else 0.7,
        "seed": number,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    return Question(number, path, common | fields)


def chat(number: int) -> Question:
    """A chat of two kinds, answered in some 20 to 60 tokens."""
    recall = [
        {"role": "user", "content": f"My name is Zan{number}."},
        {"role": "assistant", "content": f"Nice to meet you, Zan{number}!"},
        {"role": "user", "content": "What is my name?"},
    ]
    sums = [{"role": "user", "content": f"What is {number} + {97 - number}?"}]
    messages = sums if number % 2 else recall
    return _question(number, "/v1/chat/completions", {"messages": messages, "reasoning_effort": "high"})


def long_answer(number: int) -> Question:
    """A completion that goes on for `NUM_LONG_TOKENS` tokens, with the log probability of each."""
    fields = {
        "prompt": f"{number} streams go on and on. " * (1 + number % 5),
        "max_tokens": NUM_LONG_TOKENS,
        "ignore_eos": True,
        "logprobs": 0,
    }
    return _question(number, "/v1/completions", fields)


@asynccontextmanager
async def client(served: ServedApp, num_connections: int = 200):
    """A client with enough connections, patient enough for a replica that is replaced."""
    limits = httpx.Limits(max_connections=num_connections)
    async with httpx.AsyncClient(
        base_url=served.base_url, headers=served.headers, timeout=300, limits=limits
    ) as http:
        yield http


async def stream_one(
    http: httpx.AsyncClient, question: Question, note_tokens: Callable[[int], None] = lambda num_tokens: None
) -> StreamedAnswer:
    """Stream one answer to its end, whatever that is."""
    answer, is_done = StreamedAnswer(), False
    try:
        async with http.stream("POST", question.path, json=question.body) as response:
            if response.status_code != 200:
                await response.aread()
                answer.problem = f"HTTP {response.status_code}: {response.text}"
                return answer
            async for line in response.aiter_lines():
                is_done |= line == "data: [DONE]"
                if line.startswith("data: {"):
                    note_tokens(_take(answer, json.loads(line.removeprefix("data: "))))
    except httpx.HTTPError as error:
        answer.problem = f"{type(error).__name__}: {error}"
        return answer
    if not is_done:
        answer.problem = answer.problem or "the stream ended without [DONE]"
    return answer


def _take(answer: StreamedAnswer, event: dict) -> int:
    """Add an event to the answer; return how many tokens it tells, as far as it does."""
    answer.moments_s.append(time.monotonic())
    if "error" in event:
        answer.problem = str(event["error"])
        return 0
    answer.usage = event["usage"] or answer.usage
    num_tokens = 0
    for choice in event["choices"]:
        delta = choice.get("delta", {})
        answer.text += (delta.get("reasoning") or "") + (delta.get("content") or "") + choice.get("text", "")
        logprobs = (choice.get("logprobs") or {}).get("token_logprobs", [])
        answer.logprobs += logprobs
        num_tokens += len(logprobs)
    return num_tokens


async def stream_all(
    http: httpx.AsyncClient, questions: Iterable[Question], faults: Sequence[tuple[int, Fault]] = ()
) -> list[StreamedAnswer]:
    """Stream answers at the same time.

    Each fault happens once so many tokens have come over all streams, in the order given; that every one
    of them did is asserted. Answers of long questions alone are counted.
    """
    total, waiting = 0, list(faults)
    happening: list[Awaitable[object]] = []

    def note_tokens(num_tokens: int) -> None:
        nonlocal total
        total += num_tokens
        while waiting and total >= waiting[0][0]:
            happening.append(asyncio.ensure_future(asyncio.to_thread(waiting.pop(0)[1])))

    answers = await asyncio.gather(*(stream_one(http, question, note_tokens) for question in questions))
    await asyncio.gather(*happening)
    assert not waiting, f"{len(waiting)} fault(s) never happened: only {total} tokens came"
    return list(answers)


class Pausing(Protocol):
    """A stream that has ended."""

    @property
    def longest_pause_s(self) -> float:
        """The longest time between two pieces."""
        ...


def print_pauses(title: str, answers: Sequence[Pausing]) -> None:
    """Print the longest pauses of the streams, as docs/reliability.md shows them."""
    print_seconds(title, [answer.longest_pause_s for answer in answers])


def print_seconds(title: str, seconds: Iterable[float]) -> None:
    """Print how many there are, p50, p99 and the largest."""
    pauses = sorted(seconds)
    p50, p99 = (percentile(pauses, share) for share in (0.5, 0.99))
    print(f"\n| {title} | {len(pauses)} | {p50:.2f} s | {p99:.2f} s | {pauses[-1]:.2f} s |")
