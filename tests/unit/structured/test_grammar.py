from __future__ import annotations

import json
from random import Random

import jsonschema
import pytest

from gptoss_ray.errors import InvalidRequestError
from gptoss_ray.structured.grammar import (
    ANY_OBJECT,
    ANY_TEXT,
    MAX_LARK_CHARS,
    MAX_SCHEMA_DEPTH,
    MAX_SCHEMA_KEYS,
    MAX_SCHEMA_VALUES,
    MAX_WHITESPACE,
    NO_ARGUMENTS,
    chat_grammar,
    choice_rule,
    json_rule,
    lark_rule,
    plain_grammar,
    regex_rule,
)
from gptoss_ray.structured.grammar_compiler import GrammarCompiler
from tests.support.grammars import CITY_SCHEMA, byte_compiler, byte_encoding, parse, walk
from tests.support.ingresses import encoding

TREE_SCHEMA = {
    "$ref": "#/$defs/node",
    "$defs": {
        "node": {
            "type": "object",
            "properties": {
                "name": {"type": "string", "pattern": "^[a-z]{1,5}$"},
                "leaf": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]},
            },
            "required": ["name", "leaf"],
            "additionalProperties": False,
        }
    },
}
CITY = json_rule(CITY_SCHEMA, is_strict=True, param="x")
TREE = json_rule(TREE_SCHEMA, is_strict=True, param="x")
CALLS = {"get.weather-1": CITY, "grow": TREE}


@pytest.fixture(scope="module")
def compiler() -> GrammarCompiler:
    return GrammarCompiler(encoding(), encoding().vocab_size)


def accepts(grammar: str, markup: str) -> bool:
    """Whether the grammar lets this output come, up to and with its stop token."""
    state = byte_compiler().compile(grammar)
    return all(map(state.advance, byte_encoding().encode_with_special(markup)))


def content_accepts(rule: str, text: str) -> bool:
    """Whether the rule lets this text come as the whole output."""
    state = byte_compiler().compile(plain_grammar(rule))
    return all(map(state.advance, [*text.encode(), byte_encoding().return_]))


THOUGHT = "<|channel|>analysis<|message|>Hm <b>.\n<|end|><|start|>assistant"
REMARK = "<|channel|>commentary<|message|>One moment.<|end|><|start|>assistant"
ARGUMENTS = '{"city": "Bern", "unit":"celsius"}'
FINAL = f"<|channel|>final<|message|>{ARGUMENTS}<|return|>"
CALL = f"<|channel|>commentary to=functions.get.weather-1 <|constrain|>json<|message|>{ARGUMENTS}<|call|>"


@pytest.mark.parametrize("thoughts", ["", THOUGHT, THOUGHT + THOUGHT])
@pytest.mark.parametrize(
    "ending",
    [
        CALL,
        REMARK + CALL,
        CALL.replace(" <|constrain|>json", ""),
        CALL.replace(" <|constrain|>json", " json"),
        CALL.replace(" <|constrain|>json", "<|constrain|>json"),
        f" to=functions.get.weather-1<|channel|>commentary json<|message|>{ARGUMENTS}<|call|>",
        '<|channel|>commentary to=functions.grow<|message|>{"name":"a","leaf":null}<|call|>',
    ],
)
def test_a_call_may_have_reasoning_and_remarks_before_it_and_both_orders_of_its_header(thoughts, ending):
    assert accepts(chat_grammar(None, CALLS), thoughts + ending)
    assert accepts(chat_grammar(ANY_TEXT, CALLS), thoughts + ending)
    assert not accepts(chat_grammar(ANY_TEXT, {}), thoughts + ending)


@pytest.mark.parametrize(
    "wrong",
    [
        FINAL,
        THOUGHT + THOUGHT.removesuffix("<|start|>assistant") + "<|return|>",
        CALL.replace("get.weather-1", "other"),
        CALL.replace("functions.", ""),
        CALL.replace('"Bern"', "5"),
        CALL.replace("<|call|>", "<|return|>"),
        CALL.replace("commentary", "analysis"),
        CALL.replace("Bern", "Be<|end|>rn"),
        CALL.replace("<|channel|>", ""),
        f"functions.get.weather-1 {ARGUMENTS}",
    ],
)
def test_where_a_call_is_required_nothing_else_ends_the_output(wrong):
    assert not accepts(chat_grammar(None, CALLS), wrong)


def test_a_final_answer_has_its_form_and_no_remark_before_it():
    grammar = chat_grammar(CITY, {})
    assert accepts(grammar, THOUGHT + FINAL)
    assert accepts(grammar, FINAL.replace("<|message|>", " <|constrain|>json<|message|>"))
    assert not accepts(grammar, REMARK + FINAL)
    assert not accepts(grammar, FINAL.replace("celsius", "kelvin"))
    assert not accepts(grammar, FINAL.replace("<|return|>", " and more<|return|>"))
    assert not accepts(grammar, ARGUMENTS)


def test_beside_a_call_an_answer_keeps_its_form_and_a_remark_leads_to_the_call():
    grammar = chat_grammar(CITY, CALLS)
    assert accepts(grammar, THOUGHT + FINAL)
    assert accepts(grammar, THOUGHT + REMARK + CALL)
    assert not accepts(grammar, REMARK + FINAL)


def test_a_free_answer_may_be_any_text_but_no_control_token():
    grammar = chat_grammar(ANY_TEXT, CALLS)
    assert accepts(grammar, REMARK + "<|channel|>final<|message|>Ünï\0code \n<end><|return|>")
    assert not accepts(grammar, "<|channel|>final<|message|>a<|channel|>b<|return|>")
    assert not accepts(grammar, "<|channel|>final<|message|>a<|call|>")


@pytest.mark.parametrize(
    ("final", "calls"), [(ANY_TEXT, CALLS), (None, CALLS), (None, {"grow": TREE}), (CITY, {}), (TREE, CALLS)]
)
def test_random_walks_end_in_output_that_parses_without_repair_and_validates(compiler, final, calls):
    schemas = {CITY: CITY_SCHEMA, TREE: TREE_SCHEMA}
    seen = set()
    for seed in range(30):
        token_ids = walk(compiler.compile(chat_grammar(final, calls)), encoding(), Random(seed))
        output = parse(encoding(), token_ids)
        assert output.is_done
        assert output.num_repairs == 0
        channel, recipient, text = output.messages[-1]
        seen.add(recipient or channel)
        if recipient is not None:
            assert token_ids[-1] == encoding().call
            jsonschema.validate(json.loads(text), schemas[calls[recipient.removeprefix("functions.")]])
        elif final != ANY_TEXT:
            jsonschema.validate(json.loads(text), schemas[final])
    assert seen == {f"functions.{name}" for name in calls} | ({"final"} if final else set())


@pytest.mark.parametrize(
    ("rule", "right", "wrong"),
    [
        (regex_rule(r"a/b\d+\n"), "a/b12\n", "a/b12"),
        (regex_rule("(é|x)+"), "éxé", "e"),
        (choice_rule(['say "hi"\n', "<|end|> é\\"]), "<|end|> é\\", "say"),
        (choice_rule(["yes", "no", ""]), "", "yesno"),
        (lark_rule('start: "}" x ";"\nx: /[0-9]+/', param="x"), "}12;", "12;"),
        (lark_rule('start: "a" %json {"enum": ["b", 1]} ";"', param="x"), 'a"b";', "a2;"),
        (json_rule(ANY_OBJECT, is_strict=True, param="x"), '{"a":[1,{}]}', "[1]"),
        (json_rule(NO_ARGUMENTS, is_strict=True, param="x"), "{}", '{"a":1}'),
    ],
)
def test_content_can_be_held_to_a_regex_a_choice_a_grammar_or_an_object(rule, right, wrong):
    assert content_accepts(rule, right)
    assert not content_accepts(rule, wrong)


def test_white_space_between_the_parts_of_json_has_an_end():
    rule = json_rule(ANY_OBJECT, is_strict=True, param="x")
    assert content_accepts(rule, "{" + " " * MAX_WHITESPACE + "}")
    assert not content_accepts(rule, "{" + " " * (MAX_WHITESPACE + 1) + "}")


def test_keywords_that_cannot_be_enforced_are_ignored_only_where_the_schema_is_not_strict():
    unique = {"type": "array", "items": {"type": "integer"}, "uniqueItems": True}
    assert content_accepts(json_rule(unique, is_strict=False, param="x"), "[1, 1]")
    assert not content_accepts(json_rule(unique, is_strict=False, param="x"), '["a"]')
    with pytest.raises(InvalidRequestError, match="uniqueItems"):
        byte_compiler().compile(plain_grammar(json_rule(unique, is_strict=True, param="x")))


def test_a_client_cannot_set_the_compilers_options():
    unique = {"type": "array", "uniqueItems": True, "x-guidance": {"lenient": True}}
    with pytest.raises(InvalidRequestError, match="uniqueItems"):
        byte_compiler().compile(plain_grammar(json_rule(unique, is_strict=True, param="x")))


def nested(levels: int) -> dict:
    schema: dict = {}
    for _ in range(levels - 1):
        schema = {"not": schema}
    return schema


def test_a_schema_that_is_too_deep_wide_or_long_is_refused_by_its_field():
    json_rule(nested(MAX_SCHEMA_DEPTH), is_strict=True, param="x")
    wide = {f"p{number}": True for number in range(MAX_SCHEMA_KEYS + 1)}
    for schema in (
        nested(MAX_SCHEMA_DEPTH + 1),
        nested(100_000),
        {"properties": wide},
        {"a": [[wide]]},
        {"enum": [[1]] * MAX_SCHEMA_VALUES},
    ):
        with pytest.raises(InvalidRequestError) as caught:
            json_rule(schema, is_strict=False, param="tools[3]")
        assert caught.value.param == "tools[3]"


def lark_of(schema, spaces=" "):
    return f"start: item+ // of its own\nitem: %json{spaces}{json.dumps(schema)} | /[a-z]/"


def test_a_schema_within_a_grammar_has_the_same_limits():
    for spaces in ("", " ", " \n\t"):
        assert content_accepts(lark_rule(lark_of(CITY_SCHEMA, spaces), param="x"), f"a{ARGUMENTS}")
    wide = {f"p{number}": True for number in range(MAX_SCHEMA_KEYS + 1)}
    for schema in (
        nested(MAX_SCHEMA_DEPTH + 1),
        {"properties": wide},
        [wide],
        {"enum": [1] * MAX_SCHEMA_VALUES},
    ):
        for lark in (
            lark_of(schema, "\n"),
            f'start: "%json " %json {json.dumps(schema)}',
            f'start: "%json [1, " %json {json.dumps(schema)}',
            f"{lark_of({'const': 1})}\nother: %lark {{\n{lark_of(schema)}\n}}",
        ):
            with pytest.raises(InvalidRequestError) as caught:
                lark_rule(lark, param="guided_grammar")
            assert caught.value.param == "guided_grammar"


@pytest.mark.parametrize(
    "behind", ["", " ", " start", ' {"a": ', " {'a': 1}", "[" * 5000, "1" * 5000], ids=lambda text: text[:9]
)
def test_what_cannot_be_read_as_a_schema_within_a_grammar_is_refused(behind):
    with pytest.raises(InvalidRequestError, match="%json without a JSON schema behind it, at character 7"):
        lark_rule(f"start: %json{behind}", param="x")


def test_a_grammar_that_is_far_too_long_is_refused():
    lark = f"start: {'a' * (MAX_LARK_CHARS - 7)}"
    lark_rule(lark, param="x")
    with pytest.raises(InvalidRequestError, match=f"at most {MAX_LARK_CHARS}") as caught:
        lark_rule(f"{lark} ", param="x")
    assert caught.value.param == "x"


def test_a_grammar_that_is_too_ambiguous_ends_with_an_error_of_the_request_before_a_step_takes_long(compiler):
    state = compiler.compile(plain_grammar(lark_rule("start: a\na: a a | a a a | /[a-z ]/", param="x")))
    (letter,) = encoding().encode("a")
    with pytest.raises(InvalidRequestError, match=r"Too many items \(limit 15000"):
        for _ in range(100):
            assert state.allowed()[letter]
            state.advance(letter)


def test_an_object_of_two_hundred_optional_properties_is_not_too_ambiguous(compiler):
    properties = {f"p{number}": {"type": "integer", "maximum": 9, "minimum": 0} for number in range(200)}
    schema = {"type": "object", "properties": properties, "additionalProperties": False}
    grammar = plain_grammar(json_rule(schema, is_strict=True, param="x"))
    for seed in range(3):
        token_ids = walk(compiler.compile(grammar), encoding(), Random(seed))
        jsonschema.validate(json.loads(encoding().decode_bytes(token_ids[:-1])), schema)
