from __future__ import annotations

import numpy as np
import pytest

from gptoss_ray.engine.engine import Engine
from gptoss_ray.engine.step_plan import MAX_SCORED_TOKENS
from gptoss_ray.errors import InternalError
from gptoss_ray.generation import FinishReason, GenerationRequest, SamplingParams
from tests.support.engine_invariants import check_engine
from tests.support.engine_runs import finish, run, small_config
from tests.support.fake_transformer import FakeConfig, FakeTransformer

VOCAB_SIZE = FakeConfig().vocab_size
BLOCK_BYTES = 256


class WatchedTransformer(FakeTransformer):
    """Notes how many rows of logits each step asked for; spoils those of a token that a test names."""

    def __init__(self):
        super().__init__()
        self.num_rows = []
        self.spoilt_token = None

    def forward(self, batch, kv_cache):
        logits = super().forward(batch, kv_cache)
        self.num_rows.append(len(logits))
        logits[batch.token_ids[batch.logits_rows] == self.spoilt_token] = float("nan")
        return logits


def make_engine(transformer=None, **config):
    return Engine(transformer or FakeTransformer(), small_config(**config))


def scored(request_id="r", num_tokens=90, *, seed=7, emitted=(), **params):
    """A request that wants its prompt scored."""
    rng = np.random.default_rng(seed)
    prompt = tuple(rng.integers(1, VOCAB_SIZE, num_tokens).tolist())
    params = {"temperature": 0.0, "max_tokens": 3, "logprobs": 2, "prompt_logprobs": 2} | params
    return GenerationRequest(request_id, prompt, SamplingParams(**params), tuple(emitted))


def answer_of(request, **config):
    return run(make_engine(**config), [request])[request.request_id]


def test_a_prompt_token_has_the_log_probability_it_would_have_had_as_output():
    request = scored(num_tokens=30)
    entries = answer_of(request).prompt_logprobs
    assert len(entries) == 30
    assert entries[0] is None
    for end in range(1, 30):
        token_id = request.prompt_token_ids[end]
        params = SamplingParams(temperature=0.0, max_tokens=1, logprobs=2, logit_bias=((token_id, 100.0),))
        drawn = answer_of(GenerationRequest("r", request.prompt_token_ids[:end], params))
        assert drawn.token_ids == (token_id,)
        assert entries[end] == drawn.logprobs[0]


@pytest.mark.parametrize("budget", [1, 5, 16, 1000])
def test_any_chunking_and_any_batch_gives_the_same_bits(budget):
    requests = [
        scored("a", 150),
        scored("b", 20, seed=8),
        scored("c", 70, seed=9, prompt_logprobs=None),
        scored("d", 33, seed=10, prompt_logprobs=0),
    ]
    together = run(make_engine(max_num_batched_tokens=budget), requests)
    for request in requests:
        assert together[request.request_id].text() == answer_of(request).text()
    assert together["c"].prompt_logprobs == ()
    assert all(entry.top == () for entry in together["d"].prompt_logprobs[1:])


def test_a_cached_prefix_is_computed_again():
    engine = make_engine()
    run(engine, [scored("first", prompt_logprobs=None)])
    again = run(engine, [scored("again")])["again"]
    assert again.num_cached_tokens == 0
    assert again.text() == answer_of(scored()).text()
    assert run(engine, [scored("last", prompt_logprobs=None)])["last"].num_cached_tokens > 0


def test_a_step_asks_for_a_bounded_number_of_rows_and_other_requests_go_on():
    transformer = WatchedTransformer()
    engine = make_engine(transformer, max_num_batched_tokens=1000)
    requests = [scored(f"r{index}", 100, seed=index) for index in range(4)]
    requests.append(scored("plain", 10, prompt_logprobs=None))
    answers = run(engine, requests)
    assert max(transformer.num_rows) <= MAX_SCORED_TOKENS + len(requests)
    assert all(len(answers[f"r{index}"].prompt_logprobs) == 100 for index in range(4))
    assert answers["plain"].finish_reason is FinishReason.LENGTH


def test_a_preempted_request_delivers_its_prompt_once():
    requests = [scored(f"r{seed}", 5 + seed, seed=seed, max_tokens=100) for seed in range(9)]
    engine = make_engine(kv_cache_bytes=24 * BLOCK_BYTES, max_num_batched_tokens=16)
    for request in requests:
        engine.submit(request)
    outputs = {}
    while engine.has_work:
        for output in engine.step():
            outputs.setdefault(output.request_id, []).append(output)
        check_engine(engine)
    assert engine.stats().num_preemptions > 0
    for request in requests:
        first, *others = outputs[request.request_id]
        assert first.prompt_logprobs == answer_of(request).prompt_logprobs
        assert not any(output.prompt_logprobs for output in others)


def test_a_resumed_request_has_delivered_its_prompt_already():
    answer = answer_of(scored(emitted=(5,)))
    assert answer.prompt_logprobs == ()
    assert len(answer.token_ids) == 2


def test_a_prompt_that_cannot_be_scored_fails_alone():
    transformer = WatchedTransformer()
    transformer.spoilt_token = 96
    engine = make_engine(transformer)
    good = GenerationRequest("good", (1, 2, 3), SamplingParams(max_tokens=2, prompt_logprobs=1))
    bad = GenerationRequest("bad", (1, 96, 3), SamplingParams(max_tokens=2, prompt_logprobs=1))
    long = GenerationRequest("long", (96, *range(90)), SamplingParams(max_tokens=2, prompt_logprobs=1))
    answers = run(engine, [good, bad, long])
    assert answers["good"].finish_reason is FinishReason.LENGTH
    for name in ("bad", "long"):
        assert answers[name].finish_reason is FinishReason.ERROR
        assert isinstance(answers[name].error, InternalError)
        assert answers[name].token_ids == ()
    check_engine(engine)
    assert finish(engine) == {}


def test_a_prompt_of_one_token_has_nothing_to_score():
    for max_tokens in (0, 3):
        assert answer_of(scored(num_tokens=1, max_tokens=max_tokens)).prompt_logprobs == (None,)


@pytest.mark.parametrize("num_tokens", [1, 2, 63, 64, 65, 66, 150])
@pytest.mark.parametrize("budget", [1, 16, 1000])
def test_a_request_without_output_has_its_prompt_scored_and_draws_nothing(num_tokens, budget):
    request = scored(num_tokens=num_tokens, max_tokens=0)
    transformer = WatchedTransformer()
    engine = make_engine(transformer, max_num_batched_tokens=budget)
    answer = run(engine, [request])["r"]
    assert answer.prompt_logprobs == answer_of(scored(num_tokens=num_tokens)).prompt_logprobs
    assert (answer.token_ids, answer.logprobs) == ((), ())
    assert answer.finish_reason is FinishReason.LENGTH
    assert sum(transformer.num_rows) == num_tokens - 1
    assert engine.stats().num_generation_tokens == 0
    check_engine(engine)
    assert engine.stats().num_running == 0


def test_requests_with_and_without_output_do_not_change_each_other():
    requests = [scored(f"r{n}", 20 + 30 * n, seed=n, max_tokens=3 * (n % 2)) for n in range(5)]
    requests.append(scored("plain", 40, prompt_logprobs=None, max_tokens=9))
    together = run(make_engine(max_num_batched_tokens=32), requests)
    for request in requests:
        assert together[request.request_id].text() == answer_of(request).text()


def test_a_request_without_output_that_was_preempted_delivers_its_prompt_once():
    # While it is read, two tokens a step, those before it grow; the latest makes way.
    growing = [scored(f"r{n}", 5, seed=n, max_tokens=100, prompt_logprobs=None) for n in range(4)]
    request = scored(num_tokens=200, max_tokens=0)
    engine = make_engine(kv_cache_bytes=36 * BLOCK_BYTES, max_num_batched_tokens=6)
    answers = run(engine, [*growing, request])
    assert engine.stats().num_preemptions > 0
    assert answers["r"].text() == answer_of(request).text()


def test_a_request_without_output_and_without_scores_computes_nothing():
    transformer = WatchedTransformer()
    engine = make_engine(transformer)
    answer = run(engine, [scored(max_tokens=0, prompt_logprobs=None)])["r"]
    assert (answer.token_ids, answer.prompt_logprobs) == ((), ())
    assert answer.finish_reason is FinishReason.LENGTH
    assert transformer.num_rows == []


def test_a_request_without_output_whose_prompt_cannot_be_scored_fails():
    transformer = WatchedTransformer()
    transformer.spoilt_token = 96
    engine = make_engine(transformer)
    bad = GenerationRequest("bad", (1, 96, 3), SamplingParams(max_tokens=0, prompt_logprobs=1))
    answer = run(engine, [bad])["bad"]
    assert isinstance(answer.error, InternalError)
    assert answer.prompt_logprobs == ()
    check_engine(engine)


def test_a_request_without_output_can_be_aborted_within_its_prompt():
    engine = make_engine(max_num_batched_tokens=16)
    engine.submit(scored(max_tokens=0))
    assert engine.step() == []
    assert engine.abort("r")
    assert finish(engine) == {}
    check_engine(engine)
