from __future__ import annotations

import threading

import numpy as np
import pytest

from gptoss_ray.errors import InvalidRequestError
from gptoss_ray.harmony.encoding import HarmonyEncoding
from gptoss_ray.harmony.tokenizer_files import write_tokenizer
from gptoss_ray.structured import grammar_compiler
from gptoss_ray.structured.grammar import (
    ANY_TEXT,
    chat_grammar,
    choice_rule,
    json_rule,
    plain_grammar,
    regex_rule,
)
from gptoss_ray.structured.grammar_compiler import CheckpointGrammars, GrammarCompiler, grammar_checker
from tests.support.grammars import CITY_SCHEMA, byte_compiler, byte_encoding

ENCODING = byte_encoding()


def of_schema(schema, *, is_strict=True):
    return plain_grammar(json_rule(schema, is_strict=is_strict, param="x"))


@pytest.mark.parametrize(
    ("grammar", "reason"),
    [
        (of_schema({"type": "wat"}), "Invalid type: wat"),
        (of_schema({"$ref": "#/nowhere"}), "/nowhere"),
        (of_schema({"$ref": "http://example.com/schema"}), "not present"),
        (of_schema({"not": {"type": "string"}}), "not"),
        (of_schema({"type": "string", "pattern": "(?=a)"}), "look-around"),
        (of_schema({"type": "integer", "minimum": 5, "maximum": 3}), "Unsatisfiable"),
        (of_schema({"const": "\ud800"}), "hex escape"),
        (plain_grammar(regex_rule("[")), "regex"),
        (plain_grammar(choice_rule(["\ud800"])), "surrogate"),
        (plain_grammar(regex_rule("(" * 50_000)), "regex"),
        ("start: " + "(" * 50_000, "nested"),
        ("start: nothing", "nothing"),
        ("", "Empty"),
    ],
)
def test_what_cannot_be_enforced_is_refused_with_the_reason(grammar, reason):
    with pytest.raises(InvalidRequestError) as caught:
        byte_compiler().compile(grammar)
    assert reason in caught.value.message
    assert caught.value.param == "grammar"
    assert "\n" not in caught.value.message
    assert len(caught.value.message) < 400


def test_of_a_complete_output_only_the_end_of_the_answer_is_allowed_and_stays_so():
    state = byte_compiler().compile(of_schema({"const": 5}))
    assert np.flatnonzero(state.allowed()).tolist() == [ord("5")]
    assert state.advance(ord("5"))
    for _ in range(3):
        assert np.flatnonzero(state.allowed()).tolist() == [ENCODING.return_]
        assert state.advance(ENCODING.return_)


def test_a_token_that_is_not_allowed_is_not_taken_and_ends_the_state():
    state = byte_compiler().compile(of_schema({"const": 5}))
    assert not state.advance(ord("6"))
    with pytest.raises(InvalidRequestError):
        state.allowed()


def test_a_schema_that_nothing_satisfies_ends_with_an_error_of_the_request():
    state = byte_compiler().compile(of_schema({"$ref": "#"}))
    with pytest.raises(InvalidRequestError, match="no next token"):
        state.allowed()


def test_asking_twice_changes_nothing_and_states_of_one_grammar_are_apart():
    grammar = chat_grammar(ANY_TEXT, {"f": json_rule(CITY_SCHEMA, is_strict=True, param="x")})
    first, second = byte_compiler().compile(grammar), byte_compiler().compile(grammar)
    start = first.allowed()
    assert (first.allowed() == start).all()
    assert first.advance(ENCODING.channel)
    assert (second.allowed() == start).all()
    assert (first.allowed() != start).any()


def test_a_mask_has_a_place_for_every_column_of_the_logits():
    compiler = GrammarCompiler(ENCODING, 1000)
    allowed = compiler.compile(of_schema({"const": 5})).allowed()
    assert allowed.shape == (1000,)
    assert not allowed[ENCODING.vocab_size :].any()


def test_a_grammar_is_compiled_once_and_the_least_used_are_forgotten(monkeypatch):
    compiler = GrammarCompiler(ENCODING, ENCODING.vocab_size)
    compiled = []
    compile_anew = compiler._compile
    monkeypatch.setattr(compiler, "_compile", lambda text: compiled.append(text) or compile_anew(text))
    monkeypatch.setattr(grammar_compiler, "MAX_CACHED_GRAMMARS", 2)
    a, b, c = (of_schema({"const": letter}) for letter in "abc")
    for grammar in (a, b, a, c, a, b):
        compiler.compile(grammar)
    assert compiled == [a, b, c, b]


def test_threads_may_compile_at_once():
    compiler = GrammarCompiler(ENCODING, ENCODING.vocab_size)
    grammars = [of_schema({"const": number % 7}) for number in range(40)]
    states = {}

    def compile_one(number):
        states[number] = compiler.compile(grammars[number])

    threads = [threading.Thread(target=compile_one, args=(number,)) for number in range(len(grammars))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number, state in states.items():
        assert np.flatnonzero(state.allowed()).tolist() == [ord(str(number % 7))]


def test_a_checkpoint_whose_vocabulary_does_not_fit_its_logits_has_no_grammars(tmp_path):
    grammar = of_schema({"const": 5})
    for num_ranks, vocab_size in ((None, 512), (300, 310)):
        if num_ranks is not None:
            write_tokenizer(tmp_path, num_ranks)
        with pytest.raises(InvalidRequestError, match=f"{vocab_size} tokens"):
            CheckpointGrammars(tmp_path, vocab_size).compile(grammar)
    allowed = CheckpointGrammars(tmp_path, 330).compile(grammar).allowed()
    encoding = HarmonyEncoding.load(tmp_path)
    assert [encoding.token_bytes(id_) for id_ in np.flatnonzero(allowed)] == [b"5"]


@pytest.mark.timeout(30)
@pytest.mark.parametrize(
    "hostile",
    [
        {"type": "string", "pattern": "^((a{1000}){1000}){1000}$"},
        {"type": "string", "pattern": "^(a|b)*a(a|b){30}$"},
        {"enum": ["x" * 100_000]},
        {"type": "array", "items": {"type": "integer"}, "minItems": 10**9},
        {"anyOf": [{"properties": {f"p{i}": True for i in range(500)}} for _ in range(25)]},
        {"type": "object", "required": [f"p{i}" for i in range(8000)]},
        {
            "$ref": "#/$defs/0",
            "$defs": {str(i): {"allOf": [{"$ref": f"#/$defs/{i + 1}"}] * 9} for i in range(40)},
        },
    ],
)
def test_a_hostile_schema_is_refused_or_made_to_fail_and_does_not_hang(hostile):
    try:
        state = grammar_checker().compile(of_schema(hostile, is_strict=False))
        assert state.allowed().any()
    except InvalidRequestError:
        pass


def test_a_hundred_tools_are_no_hostile_grammar():
    calls = {f"tool_{number}": json_rule(CITY_SCHEMA, is_strict=True, param="x") for number in range(128)}
    assert grammar_checker().compile(chat_grammar(ANY_TEXT, calls)).allowed().any()


def test_masks_along_a_draft_are_those_of_an_output_that_went_that_way_and_move_nothing():
    grammar = of_schema({"type": "object", "properties": {"a": {"const": 57}}, "required": ["a"]})
    text = b'{"a": 57}'
    state, output = byte_compiler().compile(grammar), byte_compiler().compile(grammar)
    for start in range(len(text)):
        masks = state.allowed_along(text[start:])
        assert len(masks) == len(text) - start + 1
        assert (masks[0] == output.allowed()).all()
        ahead = byte_compiler().compile(grammar)
        assert all(map(ahead.advance, text[:start]))
        for token_id, mask in zip(text[start:], masks, strict=False):
            assert (mask == ahead.allowed()).all()
            assert ahead.advance(token_id)
        assert (masks[-1] == ahead.allowed()).all()
        assert (state.allowed() == output.allowed()).all()
        assert state.advance(text[start])
        assert output.advance(text[start])


def test_masks_along_a_draft_end_where_it_is_not_allowed():
    state = byte_compiler().compile(of_schema({"const": 571}))
    masks = state.allowed_along(b"57x1")
    assert [np.flatnonzero(mask).tolist() for mask in masks] == [[ord("5")], [ord("7")], [ord("1")]]
    assert state.advance(ord("5"))
