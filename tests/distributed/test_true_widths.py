"""Law 1 at the widths of gpt-oss-20b and gpt-oss-120b: two layers of each, and a small vocabulary.

Takes 4.5 GB of disk and 6 GB of memory, that of all processes together.
"""

from __future__ import annotations

import functools
import random
import tempfile
from contextlib import ExitStack
from unittest.mock import patch

import pytest

from gptoss_ray.checkpoint.model_config import ModelConfig
from gptoss_ray.checkpoint.synthetic import write_checkpoint
from gptoss_ray.config import ServedModelConfig
from gptoss_ray.generation import GenerationRequest, SamplingParams
from gptoss_ray.model import transformer
from tests.support.engine_runs import small_config
from tests.support.group_cases import every_case, pairwise
from tests.support.group_serving import answers_of_one, check_case, serve

pytestmark = [pytest.mark.ep, pytest.mark.timeout(1800)]

REQUESTS = {
    "gpt-oss-20b": [(1, 4), (12, 5), (7, 3), (30, 2)],
    "gpt-oss-120b": [(1, 3), (9, 2), (5, 3)],
}
"""(prompt tokens, output tokens); few for the 120b, whose experts are unpacked at every use."""

HOST_MEMORY_BYTES = 4 << 30
"""What each process takes for the machine's memory, to keep experts packed that would fill it unpacked."""


@pytest.fixture(scope="module")
def model():
    """Return a model's configuration, its requests and what one rank answers, made when first asked for."""
    with ExitStack() as stack:

        @functools.cache
        def make(name):
            shape = ModelConfig.published(name).replace(
                num_layers=2, vocab_size=4096, eos_token_ids=(), pad_token_id=None
            )
            folder = stack.enter_context(tempfile.TemporaryDirectory())  # pytest would keep its own for days
            write_checkpoint(folder, shape, seed=23)
            engine = small_config(kv_cache_bytes=16 << 20)
            config = ServedModelConfig(name="m", checkpoint=folder, engine=engine)
            requests = [
                make_request(number, shape.vocab_size, *sizes) for number, sizes in enumerate(REQUESTS[name])
            ]
            return config, requests, in_little_memory(answers_of_one, config, requests)

        yield make


def make_request(number, vocab_size, num_prompt_tokens, max_tokens):
    """Greedy for even numbers, else drawn with a seed; logprobs always."""
    rng = random.Random(number)
    prompt = tuple(rng.randrange(vocab_size) for _ in range(num_prompt_tokens))
    params = SamplingParams(
        temperature=float(number % 2), top_p=0.95, seed=number, logprobs=2, max_tokens=max_tokens
    )
    return GenerationRequest(f"r{number}", prompt, params)


def in_little_memory(function, *args):
    with patch.object(transformer, "host_memory_bytes", return_value=HOST_MEMORY_BYTES):
        return function(*args)


@pytest.mark.parametrize("case", sorted(pairwise(every_case(list(REQUESTS)))), ids=str)
def test_any_ranks_over_any_wire_answer_as_one(model, case):
    check_case(case, *model(case.model), work=functools.partial(in_little_memory, serve))
