"""Masks beside the forward pass. Every wait here ends at once where masks are prefetched, else it fails."""

from __future__ import annotations

import gc
import threading
import time
import weakref

import pytest

from gptoss_ray.engine.engine import Engine
from gptoss_ray.engine.mask_prefetch import NUM_THREADS
from gptoss_ray.errors import InternalError, InvalidRequestError
from gptoss_ray.generation import FinishReason, GenerationRequest, SamplingParams
from gptoss_ray.structured.grammar import chat_grammar, json_rule
from tests.support.constraints import HashedConstraint, InlineMasks
from tests.support.engine_runs import run, small_config, step_on
from tests.support.fake_transformer import FakeConfig, FakeTransformer
from tests.support.grammars import CITY_SCHEMA, byte_compiler, byte_encoding

FAILS_AFTER_S = 10.0


class Constraints:
    """Compiles any text to a constraint, which calls `before_mask` with it in the thread of its mask."""

    def __init__(self, before_mask=lambda grammar: None):
        self.before_mask = before_mask
        self.made = []

    def compile(self, grammar):
        constraint = HashedConstraint(grammar, FakeConfig.vocab_size, lambda: self.before_mask(grammar))
        self.made.append(weakref.ref(constraint))
        return constraint


class WatchedTransformer(FakeTransformer):
    """Calls `in_forward` before it computes."""

    def __init__(self, in_forward):
        super().__init__()
        self.in_forward = in_forward

    def forward(self, batch, kv_cache):
        self.in_forward()
        return super().forward(batch, kv_cache)


def make_engine(transformer=None, before_mask=lambda grammar: None):
    compile_grammar = Constraints(before_mask).compile
    return Engine(transformer or FakeTransformer(), small_config(), compile_grammar=compile_grammar)


def make_request(request_id, grammar=None):
    params = SamplingParams(grammar=grammar, max_tokens=8, seed=sum(request_id.encode()))
    return GenerationRequest(request_id, (1, 2, 3), params)


def run_in_line(requests, engine=None):
    engine = engine or make_engine()
    engine._executor.masks = InlineMasks()
    return texts(run(engine, requests))


def texts(answers):
    return {request_id: answer.text() for request_id, answer in answers.items()}


def wait(event):
    assert event.wait(FAILS_AFTER_S)


def new_threads(before):
    return set(threading.enumerate()) - before


def test_a_mask_is_worked_out_while_the_forward_pass_runs():
    in_mask, in_forward = threading.Event(), threading.Event()

    def meet_forward(grammar):
        in_mask.set()
        wait(in_forward)

    def meet_mask():
        in_forward.set()
        wait(in_mask)
        in_mask.clear()

    requests = [make_request("r", "g")]
    engine = make_engine(WatchedTransformer(meet_mask), meet_forward)
    assert texts(run(engine, requests)) == run_in_line(requests)


def test_rows_without_a_grammar_are_drawn_before_a_slow_mask_is_there(monkeypatch):
    mates_drawn = threading.Event()
    engine = make_engine(before_mask=lambda grammar: wait(mates_drawn))
    draw, drawn = engine._executor.sampler._draw, []

    def watched_draw(rows, sequence, drafted, masks):
        result = draw(rows, sequence, drafted, masks)
        drawn.append(sequence.request_id)
        if set(drawn) == {"mate-0", "mate-1"}:
            mates_drawn.set()
        return result

    monkeypatch.setattr(engine._executor.sampler, "_draw", watched_draw)
    requests = [make_request("held", "g"), make_request("mate-0"), make_request("mate-1")]
    for request in requests:
        engine.submit(request)
    outputs = engine.step()
    assert drawn == ["mate-0", "mate-1", "held"]
    assert [output.request_id for output in outputs] == ["held", "mate-0", "mate-1"]
    assert [output.error for output in outputs] == [None] * 3


def test_masks_of_several_rows_are_worked_out_at_once():
    barrier = threading.Barrier(NUM_THREADS)
    engine = make_engine(before_mask=lambda grammar: barrier.wait(FAILS_AFTER_S))
    answers = run(engine, [make_request(f"r{number}", "g") for number in range(NUM_THREADS)])
    assert {answer.finish_reason for answer in answers.values()} == {FinishReason.LENGTH}


def test_under_real_grammars_tokens_are_those_of_masks_worked_out_in_line():
    encoding, city = byte_encoding(), json_rule(CITY_SCHEMA, is_strict=True, param="x")
    shape = FakeConfig(vocab_size=encoding.vocab_size, max_context=600)

    def make_engine():
        return Engine(FakeTransformer(shape), small_config(), compile_grammar=byte_compiler().compile)

    params = SamplingParams(
        grammar=chat_grammar(city, {"weather": city}),
        max_tokens=200,
        stop_token_ids=encoding.stop_token_ids,
        logit_bias=tuple((token_id, 7.0) for token_id in (*b'"}', encoding.end, encoding.call)),
    )
    requests = [GenerationRequest(f"r{number}", (number, 1), params) for number in range(8)]
    assert texts(run(make_engine(), requests)) == run_in_line(requests, make_engine())


def test_when_a_step_fails_no_mask_of_it_is_under_way_and_none_has_moved_a_grammar():
    transformer = FakeTransformer()
    transformer.failing = {1, 3, 4}
    # More than there are threads: some masks have not begun when the step fails.
    requests = [make_request(f"r{number}", "g") for number in range(2 * NUM_THREADS)]
    constraints = Constraints(lambda grammar: time.sleep(0.02))
    engine = Engine(transformer, small_config(), compile_grammar=constraints.compile)
    for request in requests:
        engine.submit(request)
    answers, num_failures = {}, 0
    for has_failed in step_on(engine, answers):
        num_failures += has_failed
        assert not any(made() is not None and made().is_in_use for made in constraints.made)
    assert num_failures == 3
    assert texts(answers) == run_in_line(requests)


@pytest.mark.parametrize(
    ("error", "kind"),
    [(InvalidRequestError("no way on"), InvalidRequestError), (KeyError("x"), InternalError)],
)
def test_a_mask_that_fails_ends_its_request_alone(error, kind):
    def before_mask(grammar):
        if grammar == "bad":
            raise error

    others = [make_request("good", "g"), make_request("free")]
    answers = run(make_engine(before_mask=before_mask), [make_request("bad", "bad"), *others])
    assert type(answers["bad"].error) is kind
    assert answers.pop("bad").token_ids == ()
    assert texts(answers) == run_in_line(others)


def test_an_aborted_request_leaves_no_constraint_behind():
    constraints = Constraints()
    engine = Engine(FakeTransformer(), small_config(), compile_grammar=constraints.compile)
    for request_id in ("gone", "stays"):
        engine.submit(make_request(request_id, "g"))
    engine.step()
    engine.abort("gone")
    gc.collect()
    assert [made() is None for made in constraints.made] == [True, False]


def test_threads_start_with_the_first_mask_and_end_with_the_engine():
    before = set(threading.enumerate())
    engine = make_engine()
    run(engine, [make_request("free")])
    assert not new_threads(before)
    run(engine, [make_request("held", "g")])
    assert 0 < len(new_threads(before)) <= NUM_THREADS
    engine.close()
    assert not new_threads(before)
