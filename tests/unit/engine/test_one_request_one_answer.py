"""Law 1 and 2 through the whole engine with the real network: equal tokens and equal logprob bits."""

from __future__ import annotations

import random

import pytest

from gptoss_ray.checkpoint.reader import CheckpointReader
from gptoss_ray.checkpoint.synthetic import tiny_config, write_checkpoint
from gptoss_ray.engine.engine import Engine
from gptoss_ray.generation import GenerationRequest, SamplingParams
from gptoss_ray.kvcache.kv_cache import bytes_per_block
from gptoss_ray.model.transformer import Transformer
from tests.support.backends import EACH_BACKEND
from tests.support.engine_runs import run, small_config

CONFIG = tiny_config(num_layers=2, vocab_size=384)


@pytest.fixture(scope="module", params=EACH_BACKEND)
def transformer(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint")
    write_checkpoint(folder, CONFIG, seed=11)
    return Transformer.load(CheckpointReader.open(folder), request.param)


def make_engine(transformer, num_blocks=None, **config):
    if num_blocks is not None:
        block = (16, CONFIG.num_key_value_heads, CONFIG.head_dim, CONFIG.layer_types, transformer.dtype)
        config["kv_cache_bytes"] = num_blocks * bytes_per_block(*block)
    return Engine(transformer, small_config(**config))


def random_prompt(seed, num_tokens):
    rng = random.Random(seed)
    return tuple(rng.randrange(CONFIG.vocab_size) for _ in range(num_tokens))


def make_request(seed, *, num_prompt_tokens, max_tokens=24, emitted=(), request_id=None):
    """Greedy for even seeds, else drawn with filters and penalties; logprobs always, a prompt's for one."""
    params = SamplingParams(
        temperature=float(seed % 2),
        top_p=0.95,
        top_k=50 if seed % 4 == 1 else 0,
        frequency_penalty=0.3 if seed % 3 == 1 else 0.0,
        seed=seed,
        max_tokens=max_tokens,
        logprobs=3,
        prompt_logprobs=2 if seed == 5 else None,
    )
    prompt = random_prompt(seed, num_prompt_tokens)
    return GenerationRequest(request_id or f"r{seed}", prompt, params, emitted)


REQUESTS = [make_request(seed, num_prompt_tokens=1 + 23 * seed % 70) for seed in range(6)]


@pytest.fixture(scope="module")
def lonely(transformer):
    """What each request answers alone in an engine of its own, its prompt computed in one piece."""
    return {
        request.request_id: run(make_engine(transformer, max_num_batched_tokens=256), [request])[
            request.request_id
        ].text()
        for request in REQUESTS
    }


def texts(answers):
    return {request_id: answer.text() for request_id, answer in answers.items()}


def test_batching_equals_alone(transformer, lonely):
    assert texts(run(make_engine(transformer, max_num_batched_tokens=256), REQUESTS)) == lonely


@pytest.mark.parametrize("budget", [7, 33])
def test_chunked_equals_whole(transformer, lonely, budget):
    assert texts(run(make_engine(transformer, max_num_batched_tokens=budget), REQUESTS)) == lonely


def test_cached_equals_cold(transformer, lonely):
    engine = make_engine(transformer)
    assert texts(run(engine, REQUESTS)) == lonely
    warm = run(engine, REQUESTS)
    assert sum(answer.num_cached_tokens for answer in warm.values()) >= 128
    assert texts(warm) == lonely


def test_preempted_equals_not(transformer):
    requests = [make_request(seed, num_prompt_tokens=5 + seed, max_tokens=60) for seed in range(6)]
    squeezed = make_engine(transformer, num_blocks=16, max_num_batched_tokens=16)
    answers = run(squeezed, requests)
    assert squeezed.stats().num_preemptions >= 2
    assert texts(answers) == texts(run(make_engine(transformer), requests))


@pytest.mark.parametrize("num_emitted", [1, 13, 23])
def test_resumed_equals_uninterrupted(transformer, lonely, num_emitted):
    resumed = []
    for request in REQUESTS:
        tokens = lonely[request.request_id][0]
        resumed.append(
            GenerationRequest(
                request.request_id, request.prompt_token_ids, request.params, tokens[:num_emitted]
            )
        )
    answers = run(make_engine(transformer), resumed)
    for request_id, (tokens, logprobs, finish_reason, _) in lonely.items():
        rest = (tokens[num_emitted:], logprobs[num_emitted:], finish_reason, ())
        assert answers[request_id].text() == rest
