"""Run requests through an engine to the end, and compare what they answered."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from gptoss_ray.config import EngineConfig
from gptoss_ray.errors import GptossError
from gptoss_ray.generation import FinishReason, TokenLogprobs


@dataclass
class Answer:
    """All output of one request, stitched together."""

    token_ids: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprobs, ...] = ()
    finish_reason: FinishReason | None = None
    error: GptossError | None = None
    prompt_logprobs: tuple[TokenLogprobs | None, ...] = ()
    num_cached_tokens: int = 0

    def text(self):
        """What a client can see; how much was cached is no part of it."""
        return self.token_ids, self.logprobs, self.finish_reason, self.prompt_logprobs


def small_config(**changes) -> EngineConfig:
    """An engine of 16-token blocks that makes one token a step; `changes` may leave the operators' range."""
    config = EngineConfig(
        kv_block_size=16, kv_cache_bytes=1 << 20, max_num_batched_tokens=64, speculation="off"
    )
    return config.model_copy(update=changes)


def run(engine, requests) -> dict[str, Answer]:
    """Submit all requests and step until none is left."""
    for request in requests:
        engine.submit(request)
    return finish(engine, {request.request_id: len(request.emitted_token_ids) for request in requests})


def finish(engine, num_emitted: dict[str, int] | None = None, max_steps: int = 5000) -> dict[str, Answer]:
    """Step until there is no work, checking that positions follow each other."""
    answers: dict[str, Answer] = {}
    for _ in range(max_steps):
        if not engine.has_work:
            return answers
        take(answers, engine.step(), num_emitted)
    raise AssertionError(f"the engine still has work after {max_steps} steps")


def step_on(engine, answers: dict[str, Answer]) -> Iterator[bool]:
    """Step until there is no work; yield of each step whether it failed, its outputs taken if not."""
    while engine.has_work:
        try:
            outputs = engine.step()
        except RuntimeError:
            yield True
        else:
            take(answers, outputs)
            yield False


def take(answers: dict[str, Answer], outputs, num_emitted: dict[str, int] | None = None) -> None:
    """Add a step's outputs to the answers they belong to, checking that positions follow each other."""
    for output in outputs:
        answer = answers.setdefault(output.request_id, Answer())
        start = (num_emitted or {}).get(output.request_id, 0)
        assert answer.finish_reason is None, "output after the end"
        assert output.position == start + len(answer.token_ids)
        answer.token_ids += output.token_ids
        answer.logprobs += output.logprobs
        answer.prompt_logprobs += output.prompt_logprobs
        answer.finish_reason = output.finish_reason
        answer.error = output.error
        answer.num_cached_tokens = output.num_cached_tokens
