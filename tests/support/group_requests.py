"""Requests for a group of ranks, and when each arrives where."""

from __future__ import annotations

import random
from collections.abc import Sequence

from gptoss_ray.checkpoint.reader import CheckpointReader
from gptoss_ray.checkpoint.synthetic import tiny_config
from gptoss_ray.config import EngineConfig
from gptoss_ray.engine.engine import Engine
from gptoss_ray.generation import GenerationRequest, SamplingParams
from gptoss_ray.model.transformer import Transformer
from tests.support.engine_runs import run, small_config
from tests.support.serving_ranks import Arrival

CONFIG = tiny_config(num_layers=2, vocab_size=384)
PATTERNS = ("one rank", "all ranks", "random arrivals")


def make_request(number: int) -> GenerationRequest:
    """Greedy for even numbers, else drawn with a seed; prompts of 1 to 71 tokens; logprobs always."""
    rng = random.Random(number)
    prompt = tuple(rng.randrange(CONFIG.vocab_size) for _ in range(1 + 23 * number % 71))
    params = SamplingParams(
        temperature=float(number % 2), top_p=0.95, seed=number, max_tokens=6 + 3 * number, logprobs=2
    )
    return GenerationRequest(f"r{number}", prompt, params)


REQUESTS = [make_request(number) for number in range(6)]


def arrivals_of(
    pattern: str, num_ranks: int, requests: Sequence[GenerationRequest] = REQUESTS
) -> list[Arrival]:
    """Distribute requests over ranks and steps."""
    rng = random.Random(f"{pattern} {num_ranks}")
    if pattern == "one rank":
        return [(0, num_ranks - 1, request) for request in requests]
    if pattern == "all ranks":
        return [(0, number % num_ranks, request) for number, request in enumerate(requests)]
    return [(rng.randrange(25), rng.randrange(num_ranks), request) for request in requests]


def texts(answers_by_rank) -> dict[str, object]:
    """What clients see, by request, whichever rank answered."""
    return {name: answer.text() for answers in answers_by_rank for name, answer in answers.items()}


def answers_of_one(checkpoint: str, config: EngineConfig | None = None) -> dict[str, object]:
    """What a rank alone answers."""
    config = config or small_config()
    engine = Engine(Transformer.load(CheckpointReader.open(checkpoint), config), config)
    return texts([run(engine, REQUESTS)])
