"""Drafts through the whole engine: the same tokens and log probabilities, in fewer steps."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest

from gptoss_ray.checkpoint.reader import CheckpointReader
from gptoss_ray.checkpoint.synthetic import tiny_config, write_checkpoint
from gptoss_ray.engine.engine import Engine
from gptoss_ray.errors import InternalError, InvalidRequestError
from gptoss_ray.generation import FinishReason, GenerationRequest, SamplingParams
from gptoss_ray.kvcache.kv_cache import bytes_per_block
from gptoss_ray.model.transformer import Transformer
from tests.support.backends import EACH_BACKEND
from tests.support.constraints import HashedConstraint
from tests.support.drafters import knowing
from tests.support.engine_invariants import check_engine
from tests.support.engine_runs import run, small_config, step_on
from tests.support.fake_transformer import FakeConfig, FakeTransformer

CONFIG = tiny_config(num_layers=2, vocab_size=384)
VOCAB_SIZE = CONFIG.vocab_size


@pytest.fixture(scope="module", params=EACH_BACKEND)
def transformer(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint")
    write_checkpoint(folder, CONFIG, seed=11)
    return Transformer.load(CheckpointReader.open(folder), request.param)


def make_engine(transformer, drafter=None, num_blocks=None, **config):
    """Checks every draft that it is given; without a drafter there are none."""
    if num_blocks is not None:
        block = (16, CONFIG.num_key_value_heads, CONFIG.head_dim, CONFIG.layer_types, transformer.dtype)
        config["kv_cache_bytes"] = num_blocks * bytes_per_block(*block)
    config["speculation"] = "off" if drafter is None else "ngram"
    return Engine(
        transformer,
        small_config(**config),
        drafter=drafter,
        compile_grammar=lambda grammar: HashedConstraint(grammar, transformer.config.vocab_size),
    )


KINDS = (
    {"temperature": 0.0, "logprobs": 3},
    {"temperature": 0.0},
    {"temperature": 0.0, "presence_penalty": 1.0, "repetition_penalty": 1.3, "logprobs": 0},
    {"temperature": 1.0, "top_p": 0.9, "logprobs": 5},
    {"temperature": 0.7, "top_k": 20, "frequency_penalty": 0.8},
    {"temperature": 1.0, "min_p": 0.05, "repetition_penalty": 0.7, "logit_bias": ((7, 4.0), (9, -9.0))},
    {"temperature": 1.0, "grammar": "g", "logprobs": 2},
    {"temperature": 0.0, "grammar": "h", "frequency_penalty": 0.5},
    {"temperature": 1.5, "min_tokens": 9, "stop_token_ids": tuple(range(0, VOCAB_SIZE, 7)), "logprobs": 1},
    {"temperature": 1.0, "stop_token_ids": tuple(range(0, VOCAB_SIZE, 11)), "prompt_logprobs": 2},
)


def make_request(number, kind, max_tokens=30):
    rng = random.Random(number)
    prompt = tuple(rng.randrange(VOCAB_SIZE) for _ in range(1 + 23 * number % 70))
    params = SamplingParams(seed=number, max_tokens=max_tokens, **kind)
    return GenerationRequest(f"r{number}", prompt, params)


REQUESTS = [make_request(number, kind) for number, kind in enumerate(KINDS)]


def texts(answers):
    return {request_id: answer.text() for request_id, answer in answers.items()}


def outputs(answers):
    return {request_id: answer.token_ids for request_id, answer in answers.items()}


@pytest.fixture(scope="module")
def plain(transformer):
    """What each request answers alone, a token a step."""
    return {
        name: answer
        for request in REQUESTS
        for name, answer in run(make_engine(transformer), [request]).items()
    }


@pytest.fixture(scope="module")
def drafter(plain):
    return knowing(outputs(plain), VOCAB_SIZE)


def test_the_requests_end_in_every_way(plain):
    """Else equality would say little."""
    reasons = [answer.finish_reason for answer in plain.values()]
    assert reasons.count(FinishReason.STOP) >= 1
    assert reasons.count(FinishReason.LENGTH) >= 6
    assert all(len(answer.token_ids) >= 3 for answer in plain.values())


def test_alone_a_request_answers_the_same_in_fewer_steps(transformer, plain, drafter):
    for request in REQUESTS:
        engine = make_engine(transformer, drafter)
        assert texts(run(engine, [request])) == {request.request_id: plain[request.request_id].text()}
        stats = engine.stats()
        assert stats.num_steps <= stats.num_generation_tokens - stats.num_accepted_tokens + 6


@pytest.mark.parametrize("budget", [12, 64, 256])
def test_together_requests_answer_the_same_in_fewer_steps(transformer, plain, drafter, budget):
    engine = make_engine(transformer, drafter, max_num_batched_tokens=budget)
    assert texts(run(engine, REQUESTS)) == texts(plain)
    check_engine(engine)
    stats = engine.stats()
    assert 0 < stats.num_accepted_tokens < stats.num_draft_tokens
    plain_engine = make_engine(transformer, max_num_batched_tokens=budget)
    run(plain_engine, REQUESTS)
    assert stats.num_steps < plain_engine.stats().num_steps


def test_cached_prefixes_hold_what_was_accepted_and_nothing_that_was_refused(transformer, plain, drafter):
    engine = make_engine(transformer, drafter)
    assert texts(run(engine, REQUESTS)) == texts(plain)
    follow_ups = [
        replace(request, prompt_token_ids=(*request.prompt_token_ids, *plain[request.request_id].token_ids))
        for request in REQUESTS
    ]
    warm = run(engine, follow_ups)
    assert sum(answer.num_cached_tokens for answer in warm.values()) >= 200
    assert texts(warm) == texts(run(make_engine(transformer, prefix_cache=False), follow_ups))


def test_preempted_requests_answer_the_same(transformer):
    requests = [make_request(number, KINDS[number], max_tokens=60) for number in range(6)]
    expected = run(make_engine(transformer), requests)
    squeezed = make_engine(
        transformer,
        knowing(outputs(expected), VOCAB_SIZE),
        num_blocks=17,
        max_num_batched_tokens=24,
    )
    answers = run(squeezed, requests)
    stats = squeezed.stats()
    assert stats.num_preemptions >= 1
    assert stats.num_accepted_tokens > 20
    check_engine(squeezed)
    assert stats.kv_cache_usage == 0
    assert texts(answers) == texts(expected)


@pytest.mark.parametrize("num_emitted", [1, 2, 13])
def test_resumed_requests_answer_the_same(transformer, plain, drafter, num_emitted):
    resumed = [
        replace(request, emitted_token_ids=plain[request.request_id].token_ids[:num_emitted])
        for request in REQUESTS
    ]
    engine = make_engine(transformer, drafter)
    answers = run(engine, resumed)
    assert engine.stats().num_accepted_tokens > 0
    for request_id, answer in plain.items():
        tokens, logprobs, finish_reason, _ = answer.text()
        rest = (tokens[num_emitted:], logprobs[num_emitted:], finish_reason, ())
        assert answers[request_id].text() == rest


@pytest.mark.parametrize("max_draft_tokens", [1, 3, 32])
def test_drafts_found_in_the_text_change_nothing(transformer, max_draft_tokens):
    text = tuple(random.Random(1).randrange(VOCAB_SIZE) for _ in range(20)) * 3
    requests = [
        replace(request, prompt_token_ids=text[number:])
        for number, request in enumerate(map(likes_to_repeat, REQUESTS))
    ]
    config = small_config(speculation="ngram", max_draft_tokens=max_draft_tokens)
    engine = Engine(
        transformer, config, compile_grammar=lambda grammar: HashedConstraint(grammar, VOCAB_SIZE)
    )
    assert texts(run(engine, requests)) == texts(run(make_engine(transformer), requests))
    assert engine.stats().num_accepted_tokens > 0


def likes_to_repeat(request):
    """A few tokens are so likely that even a random network says them again and again."""
    bias = tuple((token_id, 60.0) for token_id in (1, 2))
    return replace(request, params=replace(request.params, logit_bias=bias))


# On the network whose logits are a hash of what it reads through the cache


def fake_requests(count=8, **params):
    defaults = {"max_tokens": 25, "logprobs": 1} | params
    return [
        GenerationRequest(
            f"r{number}", (number, 1, 2), SamplingParams(temperature=number % 2, seed=number, **defaults)
        )
        for number in range(count)
    ]


def fake_engines(requests, transformer=None, **config):
    """An engine with drafts for the requests, and what a plain one answers."""
    expected = run(make_engine(FakeTransformer()), requests)
    drafter = knowing(outputs(expected), FakeConfig.vocab_size)
    return make_engine(transformer or FakeTransformer(), drafter, **config), expected


@pytest.mark.parametrize("failing", [{2}, {3, 4}, {5, 9, 10}])
def test_a_failed_forward_pass_drops_its_drafts(failing):
    requests = fake_requests()
    transformer = FakeTransformer()
    transformer.failing = failing
    engine, expected = fake_engines(requests, transformer)
    for request in requests:
        engine.submit(request)
    answers = {}
    num_failures = 0
    for has_failed in step_on(engine, answers):
        num_failures += has_failed
        check_engine(engine)
    assert num_failures == len(failing)
    assert texts(answers) == texts(expected)


def test_a_sequence_never_computes_more_than_its_context():
    requests = fake_requests(1, max_tokens=10_000)
    engine, _ = fake_engines(requests, max_context=64)
    answer = run(engine, requests)["r0"]
    assert len(answer.token_ids) == 61
    assert engine.stats().num_accepted_tokens > 0


@pytest.mark.parametrize("num_sequences", [3, 40])
def test_a_step_has_no_more_rows_than_its_budget_and_drafts_no_more_than_their_limit(num_sequences):
    requests = fake_requests(num_sequences)
    transformer = FakeTransformer()
    engine, expected = fake_engines(requests, transformer, max_num_batched_tokens=60, max_draft_tokens=32)
    assert texts(run(engine, requests)) == texts(expected)
    assert max(transformer.batch_sizes) <= 60


class SilentConstraint(HashedConstraint):
    """Allows all, and from the fifth token on nothing."""

    def allowed(self):
        if len(self._key) > 5:
            raise InvalidRequestError("no way on", param="grammar")
        return np.ones(self._vocab_size, np.bool_)

    def allowed_along(self, draft):
        masks = [self.allowed()]
        return masks + masks * min(len(draft), 5 - len(self._key))


def test_a_grammar_that_ends_within_a_draft_fails_where_it_would_have_without_one():
    [request] = fake_requests(1)
    engine, expected = fake_engines([request])
    engine._compile_grammar = lambda grammar: SilentConstraint(grammar, FakeConfig.vocab_size)
    answer = run(engine, [replace(request, params=replace(request.params, grammar="g"))])["r0"]
    assert isinstance(answer.error, InvalidRequestError)
    assert answer.token_ids == expected["r0"].token_ids[:5]
    assert engine.stats().num_accepted_tokens > 0


class BrokenRowTransformer(FakeTransformer):
    """Logits are not finite behind eight tokens."""

    def _logits(self, seen):
        logits = super()._logits(seen)
        if len(seen) == 16:  # each is seen by both layers
            logits[0] = np.nan
        return logits


def test_a_row_that_cannot_be_drawn_fails_where_it_would_have_without_a_draft():
    requests = fake_requests(2)
    engine, expected = fake_engines(requests, BrokenRowTransformer())
    answers = run(engine, requests)
    for name, answer in answers.items():
        assert isinstance(answer.error, InternalError)
        assert answer.token_ids == expected[name].token_ids[:5]
    assert engine.stats().num_accepted_tokens > 0


@pytest.mark.parametrize(("speculation", "drafts"), [("off", False), ("ngram", True), ("auto", True)])
def test_a_text_that_repeats_is_drafted_unless_speculation_is_off(speculation, drafts):
    requests = fake_requests(1, logit_bias=((5, 100.0),))
    engine = Engine(FakeTransformer(), small_config(speculation=speculation))
    assert texts(run(engine, requests)) == texts(run(make_engine(FakeTransformer()), requests))
    assert (engine.stats().num_accepted_tokens > 10) is drafts
