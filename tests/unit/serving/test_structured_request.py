from __future__ import annotations

import asyncio
import json
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from gptoss_ray.errors import InvalidRequestError, OverloadedError
from gptoss_ray.serving import structured_request
from gptoss_ray.serving.openai_types import ChatCompletionRequest, CompletionRequest, parse_json
from gptoss_ray.serving.structured_request import grammar_of_chat, grammar_of_completion
from gptoss_ray.structured.grammar_compiler import MAX_GRAMMAR_CHARS
from tests.support.grammars import CITY_SCHEMA, byte_compiler, byte_encoding

WEATHER = {"name": "weather", "parameters": CITY_SCHEMA}
NOW = {"name": "now"}
WIDE = {str(number): 1 for number in range(501)}
FINAL_TEXT = "<|channel|>final<|message|>Hi.<|return|>"
FINAL_JSON = '<|channel|>final<|message|>{"a":1}<|return|>'
CALL_NOW = "<|channel|>commentary to=functions.now <|constrain|>json<|message|>{}<|call|>"
CALL_WEATHER = CALL_NOW.replace("now", "weather").replace("{}", '{"city":"Bern","unit":"celsius"}')
WRONG_CALL = CALL_WEATHER.replace("celsius", "kelvin")


def tools(*functions):
    return [{"type": "function", "function": function} for function in functions]


def named(name):
    return {"type": "function", "function": {"name": name}}


def allowed(mode, *names):
    return {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": [named(n) for n in names]}}


def schema_format(schema, **fields):
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema, **fields}}


def parse(kind, **fields):
    own = (
        {"messages": [{"role": "user", "content": "hi"}]}
        if kind is ChatCompletionRequest
        else {"prompt": "hi"}
    )
    return parse_json(kind, json.dumps({"model": "m", **own, **fields}).encode())


async def chat_grammar(**fields):
    return await grammar_of_chat(parse(ChatCompletionRequest, **fields))


async def completion_grammar(**fields):
    return await grammar_of_completion(parse(CompletionRequest, **fields))


async def refusal(make, **fields):
    with pytest.raises(InvalidRequestError) as caught:
        await make(**fields)
    return caught.value


def accepts(grammar, markup):
    state = byte_compiler().compile(grammar)
    return all(map(state.advance, byte_encoding().encode_with_special(markup)))


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"response_format": {"type": "text"}},
        {"tools": tools(WEATHER, NOW)},
        {"tools": tools(WEATHER), "tool_choice": "auto", "response_format": {"type": "text"}},
        {"tools": tools({**WEATHER, "strict": False})},
        {"tool_choice": "none"},
        {"structured_outputs": {}},
    ],
)
async def test_where_nothing_is_demanded_there_is_no_grammar(fields, monkeypatch):
    monkeypatch.setattr(structured_request, "grammar_checker", None)
    assert await chat_grammar(**fields) is None
    assert await completion_grammar(**fields) is None


EVERYTHING = {FINAL_TEXT, FINAL_JSON, CALL_NOW, CALL_WEATHER, WRONG_CALL}
TOOLS = tools(WEATHER, NOW)
STRICT = tools({**WEATHER, "strict": True}, NOW)


@pytest.mark.parametrize(
    ("fields", "possible"),
    [
        ({"tools": TOOLS, "tool_choice": "required"}, {CALL_NOW, CALL_WEATHER}),
        ({"tools": TOOLS, "tool_choice": named("now")}, {CALL_NOW}),
        ({"tools": TOOLS, "tool_choice": "none"}, {FINAL_TEXT, FINAL_JSON}),
        ({"tools": STRICT}, {FINAL_TEXT, FINAL_JSON, CALL_NOW, CALL_WEATHER}),
        ({"tools": TOOLS, "tool_choice": allowed("auto", "weather")}, {FINAL_TEXT, FINAL_JSON, CALL_WEATHER}),
        ({"tools": TOOLS, "tool_choice": allowed("required", "now")}, {CALL_NOW}),
        ({"response_format": {"type": "json_object"}}, {FINAL_JSON}),
        ({"tools": TOOLS, "response_format": {"type": "json_object"}}, {FINAL_JSON, CALL_NOW, CALL_WEATHER}),
        (
            {"tools": TOOLS, "tool_choice": "required", "response_format": {"type": "json_object"}},
            {CALL_NOW, CALL_WEATHER},
        ),
        ({"response_format": schema_format({"properties": {"a": {"type": "integer"}}})}, {FINAL_JSON}),
        ({"response_format": schema_format({"properties": {"a": {"type": "string"}}})}, set()),
        ({"response_format": schema_format(None)}, {FINAL_JSON}),
        ({"structured_outputs": {"choice": ["Hi.", "Ho."]}}, {FINAL_TEXT}),
        ({"guided_regex": r"H[ui]\."}, {FINAL_TEXT}),
        ({"guided_grammar": 'start: "H" /[a-z]/ "."'}, {FINAL_TEXT}),
        ({"guided_json": '{"required": ["a"]}'}, {FINAL_JSON}),
    ],
)
async def test_a_chats_output_can_be_what_its_fields_demand_and_nothing_else(fields, possible):
    grammar = await chat_grammar(**fields)
    assert {output for output in EVERYTHING if accepts(grammar, output)} == possible


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"response_format": {"type": "json_object"}}, '{"a":1}'),
        ({"structured_outputs": {"json_object": True}}, '{"a":1}'),
        ({"structured_outputs": {"json": {"type": "integer"}}}, "17"),
        ({"structured_outputs": {"regex": "a+"}}, "aaa"),
        ({"structured_outputs": {"grammar": 'start: "a"+'}}, "aaa"),
        ({"guided_choice": ["aaa", "b"]}, "aaa"),
    ],
)
async def test_a_completion_is_held_to_its_form_from_the_first_token(fields, text):
    grammar = await completion_grammar(**fields)
    assert accepts(grammar, text + "<|return|>")
    assert not accepts(grammar, "<|channel|>")
    assert not accepts(grammar, "no" + text + "<|return|>")


BAD_TYPE = {"type": "object", "properties": {"a": {"type": "wat"}}}


@pytest.mark.parametrize(
    ("fields", "param", "reason"),
    [
        ({"response_format": schema_format(BAD_TYPE)}, "response_format", "wat"),
        ({"response_format": schema_format({"not": {}}, strict=True)}, "response_format", "not"),
        (
            {"tools": tools(NOW, {"name": "f", "parameters": BAD_TYPE}), "tool_choice": "required"},
            "tools[1].function.parameters",
            "wat",
        ),
        ({"tools": TOOLS, "tool_choice": named("other")}, "tool_choice", "other"),
        ({"tools": TOOLS, "tool_choice": allowed("auto", "now", "other")}, "tool_choice", "other"),
        ({"tool_choice": "required"}, "tool_choice", "no tools"),
        ({"guided_regex": "["}, "guided_regex", "regex"),
        ({"guided_json": "{"}, "guided_json", "JSON"),
        ({"guided_json": "[]"}, "guided_json", "object"),
        ({"guided_grammar": "start: nothing"}, "guided_grammar", "nothing"),
        ({"guided_regex": "a", "guided_choice": ["a"]}, "guided_choice", "guided_regex"),
        (
            {"response_format": {"type": "json_object"}, "structured_outputs": {"regex": "a"}},
            "structured_outputs.regex",
            "response_format",
        ),
        (
            {"response_format": schema_format({"enum": ["x" * MAX_GRAMMAR_CHARS]})},
            "response_format",
            "characters",
        ),
        (
            {"response_format": schema_format({"p": [[[[WIDE]]]]})},
            "response_format",
            "keys",
        ),
        ({"guided_regex": "a" * (MAX_GRAMMAR_CHARS + 1)}, "guided_regex", "characters"),
        ({"guided_json": "[" * (MAX_GRAMMAR_CHARS + 1)}, "guided_json", "characters"),
        (
            {"structured_outputs": {"grammar": f"start: %json {json.dumps(WIDE)}"}},
            "structured_outputs.grammar",
            "keys",
        ),
    ],
)
async def test_a_demand_that_cannot_be_met_is_refused_by_its_field_with_the_reason(fields, param, reason):
    error = await refusal(chat_grammar, **fields)
    assert error.param == param
    assert reason in error.message
    assert param.split("[")[0].split(".")[0] in error.message


async def test_a_megabyte_of_schema_is_refused_while_the_event_loop_goes_on():
    schema = {"properties": {f"p{i}": {"enum": [f"value {i} {j}" for j in range(100)]} for i in range(400)}}
    assert len(json.dumps(schema)) > 500_000
    refused = asyncio.create_task(refusal(chat_grammar, response_format=schema_format(schema)))
    num_turns = 0
    while not refused.done():
        await asyncio.sleep(0)
        num_turns += 1
    assert "characters" in (await refused).message
    assert num_turns > 1


async def test_a_check_that_takes_too_long_is_a_refusal_and_one_that_never_began_may_be_tried_again(
    monkeypatch,
):
    may_end = threading.Event()
    monkeypatch.setattr(structured_request, "MAX_CHECK_S", 0.05)
    monkeypatch.setattr(structured_request, "_CHECKERS", ThreadPoolExecutor(1))
    monkeypatch.setattr(structured_request, "_make_and_check", lambda make: may_end.wait(10))
    slow = asyncio.create_task(refusal(chat_grammar, guided_regex="a"))
    await asyncio.sleep(0)
    with pytest.raises(OverloadedError):
        await chat_grammar(guided_regex="b")
    assert "simplify" in (await slow).message
    may_end.set()
