from __future__ import annotations

import random

import pytest

from gptoss_ray.engine.engine import Engine
from gptoss_ray.errors import (
    ConfigError,
    ContextLengthExceededError,
    InternalError,
    InvalidRequestError,
    OverloadedError,
)
from gptoss_ray.generation import FinishReason, GenerationRequest, SamplingParams
from tests.support.engine_invariants import check_engine
from tests.support.engine_runs import finish, run, small_config, step_on
from tests.support.fake_transformer import FakeConfig, FakeTransformer

VOCAB_SIZE = FakeConfig().vocab_size
BLOCK_BYTES = 256  # keys and values of 16 tokens, 2 float32 each


def make_engine(transformer=None, **config):
    return Engine(transformer or FakeTransformer(), small_config(**config))


def prompt(seed, num_tokens):
    rng = random.Random(seed)
    return tuple(rng.randrange(VOCAB_SIZE) for _ in range(num_tokens))


def make_request(request_id="r", num_prompt_tokens=40, *, emitted=(), salt="", prompt_ids=None, **params):
    params = {"temperature": 0.0, "max_tokens": 12} | params
    if prompt_ids is None:
        prompt_ids = prompt(request_id, num_prompt_tokens)
    return GenerationRequest(request_id, prompt_ids, SamplingParams(**params), tuple(emitted), salt)


def mixed_requests(count=12):
    return [
        make_request(
            f"r{seed}",
            num_prompt_tokens=1 + 13 * seed % 90,
            temperature=seed % 3 / 2,
            seed=seed,
            max_tokens=5 + 7 * seed % 40,
            logprobs=2 if seed % 2 else None,
            frequency_penalty=seed % 4 / 3,
        )
        for seed in range(count)
    ]


def alone(request, **config):
    return run(make_engine(**config), [request])[request.request_id]


def texts(answers):
    return {request_id: answer.text() for request_id, answer in answers.items()}


# One request, one answer


def test_a_batch_answers_as_each_request_alone():
    requests = mixed_requests()
    together = run(make_engine(), requests)
    assert texts(together) == {request.request_id: alone(request).text() for request in requests}


@pytest.mark.parametrize("budget", [1, 5, 16, 1000])
def test_any_chunking_of_prompts_answers_the_same(budget):
    requests = mixed_requests(6)
    answers = run(make_engine(max_num_batched_tokens=budget), requests)
    assert texts(answers) == texts(run(make_engine(), requests))


def test_preempted_requests_answer_as_if_they_had_never_stopped():
    requests = [
        make_request(f"r{seed}", num_prompt_tokens=5 + seed, temperature=seed % 2, seed=seed, max_tokens=100)
        for seed in range(9)
    ]
    squeezed = make_engine(kv_cache_bytes=24 * BLOCK_BYTES, max_num_batched_tokens=16)
    answers = run(squeezed, requests)
    assert squeezed.stats().num_preemptions > 5
    check_engine(squeezed)
    assert texts(answers) == texts(run(make_engine(), requests))


def test_a_prefix_hit_gives_the_same_tokens_as_a_cold_prompt():
    engine = make_engine()
    first, second = (make_request(name, prompt_ids=prompt(1, 90), logprobs=3) for name in ("cold", "warm"))
    cold, warm = run(engine, [first])["cold"], run(engine, [second])["warm"]
    assert (cold.num_cached_tokens, warm.num_cached_tokens) == (0, 80)
    assert cold.text() == warm.text()


@pytest.mark.parametrize("num_emitted", [1, 9, 21])
def test_a_resumed_request_continues_as_if_it_had_never_stopped(num_emitted):
    params = {"temperature": 1.0, "seed": 4, "max_tokens": 30, "min_tokens": 22, "stop_token_ids": (1, 2, 3)}
    params |= {"presence_penalty": 1.0, "repetition_penalty": 1.2, "logprobs": 1}
    whole = alone(make_request(**params))
    assert len(whole.token_ids) >= 22
    emitted = whole.token_ids[:num_emitted]
    rest = alone(make_request(emitted=emitted, **params))
    assert emitted + rest.token_ids == whole.token_ids
    assert whole.logprobs[num_emitted:] == rest.logprobs
    assert rest.finish_reason == whole.finish_reason


def test_without_a_prefix_cache_answers_are_the_same_and_nothing_is_looked_up():
    requests = mixed_requests(6)
    engine = make_engine(prefix_cache=False)
    assert texts(run(engine, requests)) == texts(run(make_engine(), requests))
    assert engine.stats().prefix_cache_queries == 0


# The prefix cache


def test_a_whole_cached_prompt_still_computes_its_last_block():
    engine = make_engine()
    run(engine, [make_request("cold", prompt_ids=prompt(1, 64))])
    assert run(engine, [make_request("warm", prompt_ids=prompt(1, 64))])["warm"].num_cached_tokens == 48


def test_a_follow_up_turn_reuses_the_answer_before_it():
    engine = make_engine()
    first = make_request("first", prompt_ids=prompt(1, 50), max_tokens=40)
    answer = run(engine, [first])["first"]
    follow_up = (*first.prompt_token_ids, *answer.token_ids, *prompt(2, 10))
    warm = run(engine, [make_request("second", prompt_ids=follow_up)])["second"]
    assert warm.num_cached_tokens == 80  # the 89 tokens whose KV was computed, in whole blocks
    assert warm.text() == alone(make_request("second", prompt_ids=follow_up)).text()


def test_salted_caches_do_not_hit_across_tenants():
    engine = make_engine()

    def num_cached(request_id, salt):
        request = make_request(request_id, prompt_ids=prompt(1, 90), salt=salt)
        return run(engine, [request])[request_id].num_cached_tokens

    assert num_cached("a1", "tenant a") == 0
    assert num_cached("b1", "tenant b") == 0
    assert num_cached("none", "") == 0
    assert num_cached("a2", "tenant a") == 80


def test_the_cache_serves_prefixes_of_requests_that_still_run():
    engine = make_engine()
    engine.submit(make_request("first", prompt_ids=prompt(1, 60), max_tokens=50))
    num_emitted = sum(len(output.token_ids) for _ in range(10) for output in engine.step())
    engine.submit(make_request("second", prompt_ids=prompt(1, 60), max_tokens=50))
    answers = finish(engine, {"first": num_emitted})
    assert answers["second"].num_cached_tokens == 48


# Limits and ends


def test_a_stop_token_ends_the_request_and_is_part_of_its_output():
    tokens = alone(make_request(max_tokens=10)).token_ids
    stopped = alone(make_request(max_tokens=10, stop_token_ids=(tokens[4],)))
    first = tokens.index(tokens[4])
    assert stopped.token_ids == tokens[: first + 1]
    assert stopped.finish_reason is FinishReason.STOP


def test_max_tokens_and_the_end_of_the_context_both_end_with_length():
    assert len(alone(make_request(max_tokens=7)).token_ids) == 7
    to_the_end = alone(make_request(num_prompt_tokens=40, max_tokens=10_000), max_context=64)
    assert len(to_the_end.token_ids) == 24
    assert to_the_end.finish_reason is FinishReason.LENGTH


def test_a_resumed_request_ends_where_the_context_ends():
    answer = alone(make_request(num_prompt_tokens=40, emitted=(1,) * 10, max_tokens=10_000), max_context=64)
    assert len(answer.token_ids) == 14


def test_a_context_longer_than_the_pool_is_resolved_to_what_fits():
    engine = make_engine(kv_cache_bytes=16 * BLOCK_BYTES, max_num_batched_tokens=16)
    assert engine.max_context < FakeConfig().max_context
    answer = run(engine, [make_request(num_prompt_tokens=engine.max_context - 20, max_tokens=10_000)])["r"]
    assert len(answer.token_ids) == 20
    with pytest.raises(ContextLengthExceededError):
        engine.submit(make_request(num_prompt_tokens=engine.max_context))


@pytest.mark.parametrize(
    ("emitted", "params", "reason"),
    [
        ((4, 5, 6), {"max_tokens": 3}, FinishReason.LENGTH),
        ((4, 5, 6), {"stop_token_ids": (6,)}, FinishReason.STOP),
        ((4,) * 24, {"max_tokens": 1000}, FinishReason.LENGTH),
    ],
)
def test_a_request_that_was_already_complete_ends_without_a_forward_pass(emitted, params, reason):
    transformer = FakeTransformer()
    engine = make_engine(transformer, max_context=64)
    engine.submit(make_request(num_prompt_tokens=40, emitted=emitted, **params))
    assert engine.has_work
    [output] = engine.step()
    assert (output.position, output.token_ids, output.finish_reason) == (len(emitted), (), reason)
    assert transformer.num_forwards == 0
    assert not engine.has_work


def test_an_id_in_use_is_refused_and_free_again_afterwards():
    engine = make_engine()
    engine.submit(make_request("same"))
    with pytest.raises(InvalidRequestError) as caught:
        engine.submit(make_request("same"))
    assert caught.value.param == "request_id"
    finish(engine)
    engine.submit(make_request("same"))


def test_a_full_queue_refuses_and_takes_again_when_one_ends():
    engine = make_engine(max_num_sequences=2, max_queued_requests=3)
    for number in range(5):
        engine.submit(make_request(f"r{number}"))
    with pytest.raises(OverloadedError):
        engine.submit(make_request("one too many"))
    assert engine.abort("r4")
    engine.submit(make_request("one too many"))
    assert len(finish(engine)) == 5


def test_a_refused_request_leaves_nothing_behind():
    engine = make_engine()
    for bad in (make_request(prompt_ids=()), make_request(prompt_ids=(VOCAB_SIZE,))):
        with pytest.raises(InvalidRequestError):
            engine.submit(bad)
    assert not engine.has_work
    assert engine.stats().num_prompt_tokens == 0


def test_a_pool_that_holds_no_sequence_is_refused_at_start():
    with pytest.raises(ConfigError) as caught:
        make_engine(kv_cache_bytes=BLOCK_BYTES)
    assert caught.value.param == "kv_cache_bytes"


# Faults


@pytest.mark.parametrize("failing", [{1}, {2}, {1, 2, 3}, {5, 9}, {6, 7, 8, 20}])
def test_a_failed_forward_pass_drops_the_plan_and_a_later_step_does_the_same_work(failing):
    requests = mixed_requests(8)
    transformer = FakeTransformer()
    transformer.failing = failing
    engine = make_engine(transformer, kv_cache_bytes=24 * BLOCK_BYTES, max_num_batched_tokens=16)
    for request in requests:
        engine.submit(request)
    num_failures = 0
    answers = {}
    for has_failed in step_on(engine, answers):
        if has_failed:
            num_failures += 1
            check_engine(engine)
    assert num_failures == len(failing)
    expected = run(make_engine(), requests)
    assert {name: answer.token_ids for name, answer in answers.items()} == {
        name: answer.token_ids for name, answer in expected.items()
    }


def test_an_aborted_request_after_a_failed_step_returns_its_blocks():
    transformer = FakeTransformer()
    transformer.failing = {2}
    engine = make_engine(transformer)
    engine.submit(make_request(num_prompt_tokens=100))
    engine.step()
    with pytest.raises(RuntimeError):
        engine.step()
    assert engine.abort("r")
    assert engine.stats().kv_cache_usage == 0
    check_engine(engine)


def test_a_request_that_cannot_be_sampled_ends_alone_with_an_internal_error():
    impossible = make_request("bad", min_tokens=1, stop_token_ids=tuple(range(VOCAB_SIZE)))
    requests = mixed_requests(5)
    engine = make_engine()
    answers = run(engine, [*requests[:2], impossible, *requests[2:]])
    bad = answers.pop("bad")
    assert bad.finish_reason is FinishReason.ERROR
    assert isinstance(bad.error, InternalError)
    assert bad.token_ids == ()
    assert texts(answers) == texts(run(make_engine(), requests))
    assert engine.stats().kv_cache_usage == 0


def test_abort_silences_a_request_at_once_and_frees_its_blocks():
    engine = make_engine(max_num_sequences=1)
    engine.submit(make_request("running"))
    engine.submit(make_request("waiting"))
    engine.submit(make_request("complete", emitted=(1,), max_tokens=1))
    engine.step()
    engine.submit(make_request("complete", emitted=(1,), max_tokens=1))
    assert engine.stats().kv_cache_usage > 0
    assert engine.abort("running")
    assert engine.abort("waiting")
    assert engine.abort("complete")
    assert not engine.abort("running")
    assert engine.stats().kv_cache_usage == 0
    assert not engine.has_work
    assert engine.step() == []


def test_suppressed_ids_never_come_out():
    suppressed = tuple(range(0, VOCAB_SIZE, 2))
    engine = Engine(FakeTransformer(), small_config(), suppressed_token_ids=suppressed)
    answers = run(engine, mixed_requests(6))
    assert all(token_id % 2 for answer in answers.values() for token_id in answer.token_ids)


# What is told


def test_stats_count_what_happened():
    engine = make_engine()
    run(engine, [make_request("a", prompt_ids=prompt(1, 50), max_tokens=5)])
    engine.submit(make_request("b", prompt_ids=prompt(1, 50), max_tokens=5))
    engine.step()
    stats = engine.stats()
    assert (stats.num_running, stats.num_waiting) == (1, 0)
    assert (stats.num_prompt_tokens, stats.num_generation_tokens) == (100, 6)
    assert (stats.prefix_cache_queries, stats.prefix_cache_hits) == (100, 48)
    assert stats.num_steps == 6
    assert 0 < stats.kv_cache_usage < 1


def test_logs_name_requests_but_hold_no_prompt(caplog):
    caplog.set_level("DEBUG", logger="gptoss_ray")
    tokens = (91, 92, 93, 94)
    run(make_engine(), [make_request("r77", prompt_ids=tokens, max_tokens=2)])
    for event in ("engine_ready", "request_submitted", "request_ended"):
        assert event in caplog.text
    assert "request_id=r77" in caplog.text
    assert not any(str(token) in message for message in caplog.messages for token in tokens)
