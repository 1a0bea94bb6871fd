"""The first question after a start, asked as any client would, its answer streamed to the terminal."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
from rich.console import Console
from rich.text import Text

from gptoss_ray.http_client import sse_events, unreachable

SAMPLE_QUESTION = "What is 17 + 25?"


def ask_sample_question(console: Console, http: httpx.Client, model: str) -> None:
    """Ask over HTTP and print the answer as it comes, reasoning dimmed.

    Raises:
        GptossError: The server did not answer, refused, or broke off.
    """
    console.print(f"\n[bold]> {SAMPLE_QUESTION}[/]")
    is_reasoning = False
    for delta in _stream_answer(http, model):
        if reasoning := delta.get("reasoning"):
            is_reasoning = True
            console.print(Text(reasoning, style="dim"), end="")
        if content := delta.get("content"):
            console.print(Text(f"\n{content}" if is_reasoning else content), end="")
            is_reasoning = False
    console.print("\n")


def _stream_answer(http: httpx.Client, model: str) -> Iterator[dict[str, str | None]]:
    body = {
        "model": model,
        "messages": [{"role": "user", "content": SAMPLE_QUESTION}],
        "stream": True,
        "temperature": 0,
        "max_tokens": 200,
    }
    try:
        with http.stream("POST", "/v1/chat/completions", json=body) as response:
            for event in sse_events(response):
                yield from (choice["delta"] for choice in event["choices"])
    except httpx.HTTPError as error:
        raise unreachable(http, error) from error
