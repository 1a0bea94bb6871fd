"""A `TokenSource` that replays what a test wrote down: tokens, pauses, failures, endless output."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import repeat

from gptoss_ray.engine.scripted_sequence import ScriptedSequence
from gptoss_ray.errors import GptossError
from gptoss_ray.generation import FinishReason, GenerationRequest, TokenOutput
from gptoss_ray.ranks.group_stats import GroupStats


@dataclass(frozen=True)
class Pause:
    """Wait before the next step."""

    seconds: float


@dataclass(frozen=True)
class Endless:
    """Repeat a token until the reader leaves, or for ever say nothing."""

    token_id: int | None = None
    pause_s: float = 0.001


Step = Sequence[int] | Pause | Endless | GptossError
"""Tokens of one engine step, a pause, or an error to raise."""

Script = Sequence[Step] | Callable[[GenerationRequest], Sequence[Step]]


@dataclass
class ScriptedSource:
    """Plays `script` for every request.

    Attributes:
        requests: All requests so far.
        open_ids: Requests that are being played now.
        closed_ids: Requests that came to an end in any way, in order.
        aborted_keys: Requests of these keys end before their next step.
        is_ready: What `ready` answers.
        group_stats: What `stats` answers.
    """

    script: Script
    is_ready: bool = True
    group_stats: Sequence[GroupStats] = ()
    requests: list[GenerationRequest] = field(default_factory=list)
    open_ids: set[str] = field(default_factory=set)
    closed_ids: list[str] = field(default_factory=list)
    aborted_keys: set[str] = field(default_factory=set)

    async def ready(self) -> bool:
        return self.is_ready

    async def stats(self) -> Sequence[GroupStats]:
        return self.group_stats

    async def abort(self, abort_key: str) -> int:
        self.aborted_keys.add(abort_key)
        return sum(
            request.abort_key == abort_key for request in self.requests if request.request_id in self.open_ids
        )

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[TokenOutput, None]:
        self.requests.append(request)
        self.open_ids.add(request.request_id)
        try:
            sequence = ScriptedSequence(request, num_cached_tokens=3)
            async for token_ids in self._play(request):
                if request.abort_key in self.aborted_keys:
                    yield sequence.end(FinishReason.ABORT)
                    return
                output = sequence.take(token_ids)
                yield output
                if output.finish_reason is not None:
                    return
            yield sequence.end()
        finally:
            self.open_ids.discard(request.request_id)
            self.closed_ids.append(request.request_id)

    async def _play(self, request: GenerationRequest) -> AsyncGenerator[tuple[int, ...], None]:
        """Yield the steps behind the tokens that the request has emitted."""
        steps = self.script(request) if callable(self.script) else self.script
        num_to_skip = len(request.emitted_token_ids)
        for step in _unrolled(steps):
            if isinstance(step, Pause):
                await asyncio.sleep(step.seconds)
            elif isinstance(step, GptossError):
                raise step
            else:
                skipped = min(num_to_skip, len(step))
                num_to_skip -= skipped
                if not skipped or step[skipped:]:
                    yield tuple(step[skipped:])

    async def wait_until_closed(self, num_requests: int = 1, timeout_s: float = 2.0) -> None:
        """Return once so many requests have ended and none is open."""

        async def poll() -> None:
            while self.open_ids or len(self.closed_ids) < num_requests:
                await asyncio.sleep(0.002)

        await asyncio.wait_for(poll(), timeout_s)


def _unrolled(steps: Sequence[Step]) -> Iterator[Sequence[int] | Pause | GptossError]:
    for step in steps:
        if not isinstance(step, Endless):
            yield step
            continue
        for _ in repeat(None):
            yield Pause(step.pause_s)
            if step.token_id is not None:
                yield (step.token_id,)
