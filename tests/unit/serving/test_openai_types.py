import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from gptoss_ray.errors import InvalidRequestError
from gptoss_ray.serving.openai_types import ChatCompletionRequest, CompletionRequest, parse_fields, parse_json
from gptoss_ray.serving.tokenization import DetokenizeRequest, TokenizeRequest

CHAT = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
COMPLETION = {"model": "m", "prompt": "hi"}


def chat(**fields):
    return parse_json(ChatCompletionRequest, json.dumps({**CHAT, **fields}).encode())


def completion(**fields):
    return parse_json(CompletionRequest, json.dumps({**COMPLETION, **fields}).encode())


def refused(parse, **fields):
    with pytest.raises(InvalidRequestError) as caught:
        parse(**fields)
    return caught.value


@pytest.mark.parametrize(
    ("field", "value", "param"),
    [
        ("model", 5, "model"),
        ("messages", [], "messages"),
        ("messages", "hi", "messages"),
        ("messages", [{"role": "user"}, {"role": "wizard"}], "messages[1].role"),
        ("messages", [{"role": "user", "content": 5}], "messages[0].content"),
        ("messages", [{"content": "hi"}], "messages[0].role"),
        ("temperature", "hot", "temperature"),
        ("temperature", "1", "temperature"),
        ("max_tokens", 0, "max_tokens"),
        ("max_completion_tokens", 1.5, "max_completion_tokens"),
        ("n", 0, "n"),
        ("stream", "yes", "stream"),
        ("stop", [1], "stop"),
        ("stop", {"a": 1}, "stop"),
        ("logit_bias", {"5": "x"}, "logit_bias.5"),
        ("top_logprobs", 21, "top_logprobs"),
        ("reasoning_effort", "extreme", "reasoning_effort"),
        ("reasoning", {"effort": "extreme"}, "reasoning.effort"),
        ("tools", [{"type": "custom", "custom": {}}], "tools[0].type"),
        ("tools", [{"type": "function", "function": {"name": 1}}], "tools[0].function.name"),
        ("tools", [{"type": "function", "function": {"name": "f", "strict": 1}}], "tools[0].function.strict"),
        ("tool_choice", "any", "tool_choice"),
        ("tool_choice", 5, "tool_choice"),
        ("tool_choice", {"type": "function"}, "tool_choice"),
        ("tool_choice", {"type": "function", "name": "f"}, "tool_choice"),
        ("tool_choice", {"type": "allowed_tools", "allowed_tools": {"mode": "auto"}}, "tool_choice"),
        (
            "tool_choice",
            {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [5]}},
            "tool_choice",
        ),
        (
            "tool_choice",
            {"type": "allowed_tools", "allowed_tools": {"mode": "any", "tools": []}},
            "tool_choice",
        ),
        ("response_format", "json", "response_format"),
        ("response_format", {"type": "xml"}, "response_format.type"),
        ("response_format", {"type": "json_schema"}, "response_format"),
        ("response_format", {"type": "json_schema", "json_schema": {}}, "response_format.json_schema.name"),
        (
            "response_format",
            {"type": "json_schema", "json_schema": {"name": "a b"}},
            "response_format.json_schema.name",
        ),
        (
            "response_format",
            {"type": "json_schema", "json_schema": {"name": "a", "schema": [1]}},
            "response_format.json_schema.schema",
        ),
        ("structured_outputs", {"choice": []}, "structured_outputs.choice"),
        ("guided_regex", 5, "guided_regex"),
        ("guided_choice", ["a"] * 1501, "guided_choice"),
        ("structured_outputs", {"choice": ["a"] * 1501}, "structured_outputs.choice"),
        (
            "tool_choice",
            {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [{}] * 16_385}},
            "tool_choice",
        ),
        ("functions", [{"name": "f"}], "functions"),
        ("best_of", 2, "best_of"),
        ("echo", True, "echo"),
        ("modalities", ["text", "audio"], "modalities"),
    ],
)
def test_a_wrong_or_unsupported_chat_field_is_refused_by_its_path(field, value, param):
    error = refused(chat, **{field: value})
    assert error.param == param
    assert param in error.message


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("prompt", ""),
        ("prompt", ["a", "b"]),
        ("prompt", [1, 2]),
        ("prompt", [[1, 2], [3]]),
    ],
)
def test_a_prompt_has_any_of_four_forms(field, value):
    assert completion(**{field: value}).prompt in (value, [value])


@pytest.mark.parametrize("value", [None, 5, [], {}, [1, "a"], [[1], ["a"]], [True], [[1.5]], [None]])
def test_any_other_form_of_prompt_is_refused(value):
    assert refused(completion, prompt=value).param == "prompt"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("logprobs", 6),
        ("logprobs", True),
        ("suffix", "end"),
        ("best_of", 0),
        ("echo", 1),
        ("max_tokens", -1),
    ],
)
def test_a_wrong_or_unsupported_completion_field_is_refused_by_its_name(field, value):
    assert refused(completion, **{field: value}).param == field


@pytest.mark.parametrize(
    ("kind", "field", "item"),
    [
        (ChatCompletionRequest, "messages", {"role": 5}),
        (ChatCompletionRequest, "messages", {"role": "assistant", "tool_calls": [{}] * 9}),
        (ChatCompletionRequest, "tools", {}),
        (ChatCompletionRequest, "stop_token_ids", "a"),
        (ChatCompletionRequest, "guided_choice", 5),
        (TokenizeRequest, "messages", 5),
        (TokenizeRequest, "tools", 5),
        (DetokenizeRequest, "tokens", "a"),
    ],
)
def test_behind_the_first_wrong_item_of_a_list_no_other_is_looked_at(kind, field, item):
    with pytest.raises(ValidationError) as one:
        kind.model_validate({**CHAT, "tokens": [], field: [item]})
    with pytest.raises(ValidationError) as many:
        kind.model_validate({**CHAT, "tokens": [], field: [item] * 1000})
    assert many.value.errors() == one.value.errors()
    assert many.value.error_count() < 5


def test_keys_that_change_nothing_are_ignored():
    ignored = {
        "user": "u",
        "store": True,
        "metadata": {},
        "service_tier": "auto",
        "prediction": None,
        "x": [1],
    }
    harmless = {"best_of": 1, "echo": False, "functions": [], "modalities": ["text"]}
    harmless |= dict.fromkeys(
        ("guided_json", "guided_choice", "tools", "stop", "stop_token_ids", "logit_bias")
    )
    fields = {"response_format": {"type": "text"}, "tool_choice": "auto", "parallel_tool_calls": True}
    chat(**ignored, **harmless, **fields)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("hi", "hi"),
        (None, None),
        ([], ""),
        ([{"type": "text", "text": "a"}, {"type": "input_text", "text": "b"}], "ab"),
        ([{"type": "refusal", "refusal": "no"}], "no"),
    ],
)
def test_content_is_a_string_null_or_parts_of_text(content, text):
    assert chat(messages=[{"role": "assistant", "content": content}]).messages[0].content == text


def test_content_may_be_absent():
    assert chat(messages=[{"role": "assistant"}]).messages[0].content is None


@pytest.mark.parametrize(
    "part", [{"type": "image_url", "image_url": {"url": "x"}}, {"type": "text"}, "x", {}]
)
def test_a_part_that_is_no_text_is_refused_by_its_place(part):
    error = refused(chat, messages=[{"role": "user", "content": [{"type": "text", "text": "a"}, part]}])
    assert error.param == "messages[0].content"
    assert "part 1" in error.message


@pytest.mark.parametrize(
    ("fields", "effort"),
    [
        ({}, "medium"),
        ({"reasoning_effort": "minimal"}, "low"),
        ({"reasoning_effort": "max"}, "high"),
        ({"reasoning": {"effort": "low"}}, "low"),
        ({"reasoning_effort": "high", "reasoning": {"effort": "low"}}, "high"),
    ],
)
def test_openais_efforts_go_to_the_nearest_of_the_models(fields, effort):
    assert chat(**fields).effort == effort


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b'{"model": }', b"\xff\xfe", b'{"model": "\\ud800"}', b"[" * 30_000, b"NaN", b"null", b"[]"],
)
def test_a_body_that_is_no_json_object_is_refused(body):
    with pytest.raises(InvalidRequestError, match="JSON"):
        parse_json(ChatCompletionRequest, body)


@settings(deadline=None)
@given(st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(), st.lists))
def test_no_value_of_any_field_raises_anything_but_a_refusal(value):
    for kind, fields in ((ChatCompletionRequest, CHAT), (CompletionRequest, COMPLETION)):
        for name in kind.model_fields:
            try:
                parse_fields(kind, {**fields, name: value})
            except InvalidRequestError as error:
                assert error.param is not None
                assert error.param.startswith(name)
