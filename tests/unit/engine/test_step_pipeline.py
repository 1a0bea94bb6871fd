"""Steps that run ahead, on a stream that does nothing until somebody waits."""

from __future__ import annotations

import logging

import numpy as np
import pytest

from gptoss_ray.engine.engine import Engine
from gptoss_ray.errors import InternalError
from gptoss_ray.generation import FinishReason, GenerationRequest, SamplingParams
from gptoss_ray.kernels.device_sampler import NO_TOKEN
from tests.support.constraints import HashedConstraint
from tests.support.engine_invariants import check_engine
from tests.support.engine_runs import finish, run, small_config, step_on
from tests.support.fake_transformer import FakeConfig, FakeTransformer
from tests.support.recorded_stream import HostSampler, RecordedStream, on_stream

VOCAB_SIZE = FakeConfig().vocab_size
SUPPRESSED = (3, 4)
EAGER_OR_GRAPHS = pytest.mark.parametrize("records_graphs", [False, True], ids=["eager", "graphs"])


def make_engine(
    transformer=None, stream=None, *, records_graphs=True, device_sampler=None, drafter=None, **config
):
    executor = None
    config = {"speculation": "off"} | config
    if stream is not None:
        draws = device_sampler or HostSampler(SUPPRESSED)
        executor = on_stream(stream, records_graphs=records_graphs, device_sampler=draws)
    return Engine(
        transformer or FakeTransformer(),
        small_config(**config),
        suppressed_token_ids=SUPPRESSED,
        compile_grammar=lambda grammar: HashedConstraint(grammar, VOCAB_SIZE),
        make_executor=executor,
        drafter=drafter,
    )


def make_request(seed, num_prompt_tokens=40, **params):
    rng = np.random.default_rng(seed)
    prompt = tuple(rng.integers(VOCAB_SIZE, size=num_prompt_tokens).tolist())
    params = {"temperature": seed % 3 / 2, "seed": seed, "max_tokens": 12} | params
    return GenerationRequest(f"r{seed}", prompt, SamplingParams(**params))


def drawn_on_device(count=10):
    """Requests of many lengths, some of which end by a stop token."""
    return [
        make_request(
            seed,
            1 + 13 * seed % 90,
            max_tokens=5 + 7 * seed % 40,
            top_k=seed % 2 * 20,
            top_p=1 - seed % 2 / 10,
            stop_token_ids=tuple(range(0, VOCAB_SIZE, 9)) if seed % 4 == 3 else (),
        )
        for seed in range(count)
    ]


def of_all_kinds():
    """Some of what the host draws: log probabilities, penalties, grammars, minimum lengths."""
    of_host = [
        make_request(20, logprobs=2),
        make_request(21, frequency_penalty=0.5),
        make_request(22, grammar="g"),
        make_request(23, min_tokens=6, stop_token_ids=tuple(range(0, VOCAB_SIZE, 2))),
        make_request(24, prompt_logprobs=1),
    ]
    return [*drawn_on_device(4), *of_host]


def texts(answers):
    return {request_id: answer.text() for request_id, answer in answers.items()}


@EAGER_OR_GRAPHS
@pytest.mark.parametrize("requests", [drawn_on_device(), of_all_kinds()], ids=["device", "device and host"])
def test_steps_that_run_ahead_answer_as_steps_one_by_one(requests, records_graphs):
    expected = texts(run(make_engine(), requests))
    assert (
        texts(run(make_engine(stream=RecordedStream(), records_graphs=records_graphs), requests)) == expected
    )


@pytest.mark.parametrize("num_blocks", [40, 60])
def test_a_full_pool_preempts_only_between_steps_and_answers_the_same(num_blocks):
    requests = [make_request(seed, 2, max_tokens=60) for seed in range(6)]
    expected = texts(run(make_engine(), requests))
    pool = {"kv_block_size": 4, "kv_cache_bytes": num_blocks * 64, "max_context": 70}
    engine = make_engine(stream=RecordedStream(), **pool)
    assert texts(run(engine, requests)) == expected
    assert engine.stats().num_preemptions > 0
    check_engine(engine)


def test_the_next_step_is_launched_before_the_present_one_is_read():
    stream = RecordedStream()
    engine = make_engine(stream=stream)
    engine.submit(make_request(0, 4))
    for _ in range(3):
        engine.step()
    assert stream.num_pending == 3, "copy, step and fetch of the next step"
    replays_before = stream.num["graph"]
    engine.step()
    assert stream.num["graph"] == replays_before + 1


def test_a_step_takes_one_copy_of_inputs_one_replay_and_one_fetch():
    stream = RecordedStream()
    engine = make_engine(stream=stream)
    for seed in range(5):
        engine.submit(make_request(seed, 4, max_tokens=40))
    for _ in range(10):
        engine.step()
    before = stream.num.copy()
    for _ in range(8):
        assert len(engine.step()) == 5
    assert stream.num - before == {"run": 16, "graph": 8}


def test_nothing_is_computed_for_a_request_whose_last_token_is_on_its_way():
    transformer, stream = FakeTransformer(), RecordedStream()
    engine = make_engine(transformer, stream, records_graphs=False)
    assert len(run(engine, [make_request(0, 4, max_tokens=3)])["r0"].token_ids) == 3
    assert transformer.batch_sizes == [4, 1, 1]


def test_what_was_computed_behind_a_stop_token_reaches_nobody():
    plain = make_engine()
    tokens = run(plain, [make_request(0, 4)])["r0"].token_ids
    stop = tokens[3]
    request = make_request(0, 4, stop_token_ids=(stop,))
    transformer, stream = FakeTransformer(), RecordedStream()
    engine = make_engine(transformer, stream, records_graphs=False)
    answer = run(engine, [request])["r0"]
    assert answer.finish_reason is FinishReason.STOP
    assert answer.token_ids == tokens[: tokens.index(stop) + 1]
    other = make_request(1, 30)
    assert texts(run(engine, [other])) == texts(run(make_engine(), [other]))
    assert transformer.batch_sizes[: len(answer.token_ids) + 1] == [4, *[1] * len(answer.token_ids)]
    check_engine(engine)


def test_an_aborted_request_is_passed_over_and_one_of_its_id_starts_anew():
    engine = make_engine(stream=RecordedStream())
    engine.submit(make_request(0, 20))
    engine.step()
    assert engine.abort("r0")
    check_engine(engine)
    again = make_request(0, 20)
    assert texts(run(engine, [again])) == texts(run(make_engine(), [again]))


@EAGER_OR_GRAPHS
def test_a_step_that_fails_takes_the_one_behind_it_along_and_both_are_done_again(records_graphs):
    requests = drawn_on_device(4)
    expected = texts(run(make_engine(), requests))
    transformer = FakeTransformer()
    engine = make_engine(transformer, RecordedStream(), records_graphs=records_graphs)
    for request in requests:
        engine.submit(request)
    answers = {}
    num_failed = 0
    for number, failed in enumerate(step_on(engine, answers)):
        num_failed += failed
        check_engine(engine)
        if number % 5 == 3:
            transformer.failing = {transformer.num_forwards + 1}
    assert num_failed >= 3
    assert texts(answers) == expected


def test_a_launch_ahead_that_fails_is_tried_again_when_it_is_its_turn(caplog):
    requests = drawn_on_device(3)
    expected = texts(run(make_engine(), requests))
    engine = make_engine(stream=RecordedStream())
    executor, num_ahead = engine._executor, []

    def launch(plan, max_num_tokens, *, behind=None):
        if behind is not None:
            num_ahead.append(len(num_ahead))
            if len(num_ahead) % 3 == 0:
                raise RuntimeError("no memory")
        return type(executor).launch(executor, plan, max_num_tokens, behind=behind)

    executor.launch = launch
    with caplog.at_level(logging.CRITICAL):
        assert texts(run(engine, requests)) == expected
    assert len(num_ahead) >= 6


@pytest.fixture
def failing_once():
    """An engine with a request that has read its first token when the next launch fails, and fails again."""
    engine = make_engine(stream=RecordedStream())
    engine.submit(make_request(0, 4))
    first = [engine.step(), engine.step()]
    executor = engine._executor
    executor.launch = None
    with pytest.raises(TypeError):
        engine.step()
    del executor.launch
    return engine, first


def test_what_a_step_has_made_is_told_though_the_launch_behind_it_has_failed_for_good(failing_once):
    engine, first = failing_once
    tokens = [token for outputs in first for output in outputs for token in output.token_ids]
    rest = finish(engine, {"r0": len(tokens)})["r0"].token_ids
    assert (*tokens, *rest) == run(make_engine(), [make_request(0, 4)])["r0"].token_ids


def test_a_request_that_has_completed_a_step_since_it_failed_is_not_to_blame_yet(failing_once):
    engine, _ = failing_once
    assert engine.blame() == ()
    engine.step()  # launched, and not read
    executor = engine._executor
    executor.launch = None
    with pytest.raises(TypeError):
        engine.step()
    del executor.launch
    assert engine.blame() == ()


def test_nothing_of_an_aborted_request_is_told_later(failing_once):
    engine, _ = failing_once
    assert engine.has_work
    assert engine.abort("r0")
    assert not engine.has_work
    assert engine.step() == []


def test_a_row_without_a_finite_logit_fails_alone():
    class Broken(HostSampler):
        def draw(self, logits, inputs):
            drawn = super().draw(logits, inputs)
            drawn[inputs.temperature == 1.5] = NO_TOKEN
            return drawn

    engine = make_engine(stream=RecordedStream(), device_sampler=Broken(SUPPRESSED))
    mates = drawn_on_device(2)
    answers = run(engine, [*mates, make_request(9, temperature=1.5)])
    assert isinstance(answers["r9"].error, InternalError)
    answers.pop("r9")
    assert texts(answers) == texts(run(make_engine(), mates))


def test_another_network_has_graphs_of_its_own():
    class Other(FakeTransformer):
        def _logits(self, seen):
            return np.roll(super()._logits(seen), 1)

    stream = RecordedStream()
    engine = make_engine(stream=stream)
    run(engine, [make_request(0)])
    engine.stage_placement(1, Other())
    request = make_request(1)
    assert texts(run(engine, [request])) == texts(run(make_engine(Other()), [request]))


def test_all_graphs_are_recorded_beforehand_and_none_later():
    stream = RecordedStream()
    engine = make_engine(stream=stream, max_num_sequences=12)
    engine._executor.record_all()
    num_graphs = stream.num_graphs
    assert num_graphs == 5, "1, 2, 4, 8 and 12 rows, in one context"
    run(engine, drawn_on_device(12))
    assert stream.num_graphs == num_graphs


def test_close_waits_for_what_the_device_still_does():
    stream = RecordedStream()
    engine = make_engine(stream=stream)
    engine.submit(make_request(0, 4))
    engine.step()
    assert stream.num_pending
    engine.close()
    assert not stream.num_pending


def test_a_step_that_scores_a_prompt_is_read_before_the_next_is_planned():
    engine = make_engine(stream=RecordedStream())
    request = make_request(0, 30, prompt_logprobs=1)
    answer = run(engine, [request])
    assert texts(answer) == texts(run(make_engine(), [request]))
    assert len(answer["r0"].prompt_logprobs) == 30


def test_requests_that_come_while_steps_run_ahead_are_served_in_turn():
    requests = drawn_on_device()
    expected = texts(run(make_engine(), requests))
    engine = make_engine(stream=RecordedStream(), max_num_sequences=3)
    answers = {}
    for request in requests:
        engine.submit(request)
        for _ in range(2):
            for output in engine.step():
                answers.setdefault(output.request_id, []).extend(output.token_ids)
    rest = finish(engine, {request_id: len(tokens) for request_id, tokens in answers.items()})
    for request_id, answer in rest.items():
        answers.setdefault(request_id, []).extend(answer.token_ids)
    assert {id_: tuple(tokens) for id_, tokens in answers.items()} == {
        id_: text[0] for id_, text in expected.items()
    }


class Foreteller:
    """Drafts what an engine without drafts has answered, the third token of each wrong."""

    def __init__(self, answers):
        self._answers = answers

    def propose(self, sequences, max_lengths):
        drafts = []
        for sequence, length in zip(sequences, max_lengths, strict=True):
            begun = sequence.num_output_tokens
            draft = list(self._answers[sequence.request_id].token_ids[begun : begun + length])
            draft[2:3] = [(token + 1) % VOCAB_SIZE for token in draft[2:3]]
            drafts.append(tuple(draft))
        return drafts


@EAGER_OR_GRAPHS
def test_drafts_are_checked_on_the_device_and_no_answer_depends_on_them(records_graphs):
    requests = of_all_kinds()
    answers = run(make_engine(), requests)
    stream = RecordedStream()
    engine = make_engine(
        stream=stream, records_graphs=records_graphs, drafter=Foreteller(answers), speculation="ngram"
    )
    assert texts(run(engine, requests)) == texts(answers)
    stats = engine.stats()
    assert stats.num_accepted_tokens > 20
    assert stats.num_draft_tokens > stats.num_accepted_tokens
