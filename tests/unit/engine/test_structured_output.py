"""Random logits held to a grammar. The network is a fake, whose logits depend on every token before."""

from __future__ import annotations

import json
from dataclasses import replace

import jsonschema
import pytest

from gptoss_ray.engine.engine import Engine
from gptoss_ray.errors import InternalError, InvalidRequestError
from gptoss_ray.generation import FinishReason, GenerationRequest, SamplingParams
from gptoss_ray.structured.grammar import ANY_TEXT, chat_grammar, json_rule, plain_grammar, regex_rule
from tests.support.engine_runs import finish, run, small_config, step_on
from tests.support.fake_transformer import FakeConfig, FakeTransformer
from tests.support.grammars import CITY_SCHEMA, byte_compiler, byte_encoding, parse

ENCODING = byte_encoding()
CITY = json_rule(CITY_SCHEMA, is_strict=True, param="x")
NO_ARGUMENTS = json_rule({"type": "object", "additionalProperties": False}, is_strict=True, param="x")
JSON_ANSWER = chat_grammar(CITY, {})
REQUIRED = chat_grammar(None, {"weather": CITY, "now": NO_ARGUMENTS})
NAMED = chat_grammar(None, {"weather": CITY})
# A network that knows nothing would think for hundreds of tokens; this one likes to come to an end.
LIKES_TO_END = tuple((token_id, 7.0) for token_id in (*b'"}', ENCODING.end, ENCODING.call))
SHAPE = FakeConfig(vocab_size=ENCODING.vocab_size, max_context=1200)


def make_engine(transformer=None, **config):
    transformer = transformer or FakeTransformer(SHAPE)
    return Engine(transformer, small_config(**config), compile_grammar=byte_compiler().compile)


def make_request(request_id, grammar=None, *, emitted=(), **params):
    params = {
        "max_tokens": 800,
        "seed": sum(request_id.encode()),
        "stop_token_ids": ENCODING.stop_token_ids,
        "logit_bias": LIKES_TO_END,
    } | params
    prompt = tuple(f"prompt of {request_id}".encode())
    return GenerationRequest(
        request_id, prompt, SamplingParams(grammar=grammar, **params), emitted_token_ids=tuple(emitted)
    )


def texts(answers):
    return {request_id: answer.text() for request_id, answer in answers.items()}


@pytest.mark.parametrize("temperature", [0.0, 1.0, 2.0])
@pytest.mark.parametrize("grammar", [JSON_ANSWER, REQUIRED, NAMED], ids=["json", "required", "named"])
def test_on_random_weights_every_output_validates(grammar, temperature):
    requests = [make_request(f"{temperature}-{n}", grammar, temperature=temperature) for n in range(8)]
    for answer in run(make_engine(), requests).values():
        assert answer.finish_reason is FinishReason.STOP
        output = parse(ENCODING, answer.token_ids)
        assert (output.num_repairs, output.is_done) == (0, True)
        channel, recipient, text = output.messages[-1]
        if grammar == JSON_ANSWER:
            assert (channel, recipient) == ("final", None)
            jsonschema.validate(json.loads(text), CITY_SCHEMA)
        elif recipient == "functions.now":
            assert grammar == REQUIRED
            assert json.loads(text) == {}
        else:
            assert recipient == "functions.weather"
            jsonschema.validate(json.loads(text), CITY_SCHEMA)


@pytest.mark.parametrize(
    "fields",
    [
        {"logit_bias": ((ord("x"), 100.0), (ENCODING.end_of_text, 100.0))},
        {"logit_bias": tuple((token_id, -100.0) for token_id in b"0123456789")},
        {"repetition_penalty": 9.0, "presence_penalty": 2.0, "frequency_penalty": -2.0},
        {"top_k": 1, "top_p": 0.1, "min_p": 0.9},
        {"min_tokens": 300, "stop_token_ids": (*ENCODING.stop_token_ids, ord("x"))},
    ],
)
def test_no_other_field_breaks_the_grammar(fields):
    grammar = plain_grammar(regex_rule("[0-9]{12}"))
    (answer,) = run(make_engine(), [make_request("r", grammar, **fields)]).values()
    *digits, last = answer.token_ids
    assert bytes(digits).isdigit()
    assert (len(digits), last) == (12, ENCODING.return_)
    assert answer.finish_reason is FinishReason.STOP


def test_min_tokens_holds_back_a_stop_that_the_grammar_does_not_force():
    grammar = plain_grammar(regex_rule("[0-9]*"))
    request = make_request("r", grammar, min_tokens=30, logit_bias=((ENCODING.return_, 100.0),))
    (answer,) = run(make_engine(), [request]).values()
    assert len(answer.token_ids) == 31
    assert answer.token_ids[-1] == ENCODING.return_


def test_logprobs_are_of_the_models_own_distribution_not_of_what_the_grammar_left():
    grammar = plain_grammar(regex_rule("[0-9]{12}"))
    (answer,) = run(make_engine(), [make_request("r", grammar, logprobs=3)]).values()
    assert all(entry.top[0][1] > entry.logprob for entry in answer.logprobs[:12])
    assert any(entry.top[0][0] not in b"0123456789" for entry in answer.logprobs)


def test_the_log_probabilities_of_a_prompt_know_no_grammar():
    params = {"max_tokens": 4, "prompt_logprobs": 3}
    grammar = plain_grammar(regex_rule("[0-9]{12}"))
    held, free = (
        run(make_engine(), [make_request("r", text, **params)])["r"].prompt_logprobs
        for text in (grammar, None)
    )
    assert len(held) == len(b"prompt of r")
    assert held == free


def test_neighbours_with_and_without_a_grammar_do_not_change_each_other():
    free = [make_request(f"free-{n}", max_tokens=60) for n in range(4)]
    held = [make_request(f"held-{n}", (JSON_ANSWER, REQUIRED)[n % 2]) for n in range(4)]
    alone = {}
    for request in (*free, *held):
        alone |= texts(run(make_engine(), [request]))
    assert texts(run(make_engine(), free)) | texts(run(make_engine(), held)) == alone
    assert texts(run(make_engine(), [*held, *free])) == alone


def test_a_request_resumed_anywhere_in_its_grammar_gets_the_same_tokens():
    request = make_request("r", REQUIRED)
    whole = run(make_engine(), [request])["r"]
    for num_emitted in range(0, len(whole.token_ids), 7):
        resumed = replace(request, emitted_token_ids=whole.token_ids[:num_emitted])
        rest = run(make_engine(), [resumed])["r"]
        assert rest.token_ids == whole.token_ids[num_emitted:]
        assert rest.finish_reason is whole.finish_reason


def test_preemption_does_not_change_what_a_grammar_allows():
    requests = [make_request(f"r{n}", (JSON_ANSWER, NAMED)[n % 2]) for n in range(6)]
    roomy, tight = make_engine(), make_engine(kv_cache_bytes=40 * 256, prefix_cache=False)
    assert texts(run(tight, requests)) == texts(run(roomy, requests))
    assert tight.stats().num_preemptions > 0


def test_a_step_that_fails_has_not_advanced_a_grammar():
    transformer = FakeTransformer(SHAPE)
    transformer.failing = {2, 5, 6, 11}
    engine = make_engine(transformer)
    request = make_request("r", NAMED)
    engine.submit(request)
    answers = {}
    assert sum(step_on(engine, answers)) == 4
    assert texts(answers) == texts(run(make_engine(), [request]))


def test_sampling_alone_does_not_advance_a_grammar(monkeypatch):
    engine = make_engine()
    request = make_request("r", NAMED)
    engine.submit(request)
    commit = engine._scheduler.commit
    faults = [RuntimeError("between sampling and commit")] * 3

    def failing_commit(plan, draws, scores):
        if faults:
            raise faults.pop()
        return commit(plan, draws, scores)

    monkeypatch.setattr(engine._scheduler, "commit", failing_commit)
    for _ in range(3):
        with pytest.raises(RuntimeError):
            engine.step()
    assert texts(finish(engine)) == texts(run(make_engine(), [request]))


def test_a_grammar_that_cannot_be_enforced_is_refused_and_others_go_on():
    engine = make_engine()
    good = make_request("good", NAMED)
    engine.submit(good)
    engine.step()
    bad = make_request("bad", plain_grammar(json_rule({"type": "wat"}, is_strict=True, param="x")))
    with pytest.raises(InvalidRequestError, match="wat"):
        engine.submit(bad)
    assert finish(engine, {"good": 1})["good"].finish_reason is FinishReason.STOP


def test_a_grammar_that_leads_nowhere_fails_its_request_alone():
    stuck = chat_grammar(json_rule({"$ref": "#"}, is_strict=True, param="x"), {})
    requests = [make_request("stuck", stuck), make_request("good", NAMED)]
    answers = run(make_engine(), requests)
    assert isinstance(answers["stuck"].error, InvalidRequestError)
    assert not isinstance(answers["stuck"].error, InternalError)
    assert answers["good"].finish_reason is FinishReason.STOP


@pytest.mark.parametrize("emitted", [b"abc", (ENCODING.channel, *b"finally"), (ENCODING.channel, 9999)])
def test_emitted_tokens_that_do_not_follow_the_grammar_are_refused(emitted):
    with pytest.raises(InvalidRequestError) as caught:
        make_engine().submit(make_request("r", JSON_ANSWER, emitted=emitted))
    assert caught.value.param == "emitted_token_ids"


def test_without_a_vocabulary_a_request_with_a_grammar_is_refused():
    engine = Engine(FakeTransformer(SHAPE), small_config())
    with pytest.raises(InvalidRequestError) as caught:
        engine.submit(make_request("r", chat_grammar(ANY_TEXT, {"weather": CITY})))
    assert caught.value.param == "grammar"


def test_what_was_prepared_beforehand_is_used_and_a_request_without_a_grammar_prepares_nothing():
    engine = make_engine()
    request = make_request("r", NAMED)
    constraint = engine.prepare(request)
    engine._compile_grammar = None
    assert engine.prepare(make_request("free")) is None
    engine.submit(request, constraint)
    assert texts(finish(engine)) == texts(run(make_engine(), [request]))
