"""Clients that demand a form, over HTTP and gRPC, from an engine whose weights are random."""

from __future__ import annotations

import json
import re

import grpc
import jsonschema
import pytest

from gptoss_ray.client import AsyncClient, chat_request, generate_request
from gptoss_ray.engine.engine import Engine
from gptoss_ray.errors import InvalidRequestError
from gptoss_ray.protos.gptoss.v1 import chat_pb2, common_pb2
from gptoss_ray.structured.grammar_compiler import GrammarCompiler
from tests.support.engine_runs import small_config
from tests.support.engine_source import EngineSource
from tests.support.fake_transformer import FakeConfig, FakeTransformer
from tests.support.grammars import CITY_SCHEMA
from tests.support.ingresses import (
    ANSWER,
    MAX_CONTEXT,
    MODEL,
    encoding,
    grpc_server,
    http_client,
    make_ingress,
    tokens,
)
from tests.support.scripted_source import ScriptedSource

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
MESSAGES = [{"role": "user", "content": "hi"}]
ENDINGS = [*map(encoding().encode, ['"', "}", '"}', "]"]), [encoding().end], [encoding().call]]
# Random weights would think until the context is full; these like to come to an end.
LIKES_TO_END = {token_id: 9.5 for (token_id, *_) in ENDINGS}
BASE = {"model": MODEL, "logit_bias": {str(id_): bias for id_, bias in LIKES_TO_END.items()}}
WEATHER = {"type": "function", "function": {"name": "weather", "parameters": CITY_SCHEMA}}
NOW = {"type": "function", "function": {"name": "now", "description": "Tell the time."}}
SCHEMA_FORMAT = {
    "type": "json_schema",
    "json_schema": {"name": "city", "description": "A city.", "schema": CITY_SCHEMA, "strict": True},
}


@pytest.fixture(scope="module")
def compiler() -> GrammarCompiler:
    return GrammarCompiler(encoding(), encoding().vocab_size)


@pytest.fixture
def source(compiler) -> EngineSource:
    shape = FakeConfig(vocab_size=encoding().vocab_size, max_context=MAX_CONTEXT)
    return EngineSource(Engine(FakeTransformer(shape), small_config(), compile_grammar=compiler.compile))


async def ask(source, path, **fields):
    async with http_client(make_ingress(source)) as client:
        body = {**BASE, **({"messages": MESSAGES} if path == CHAT else {"prompt": "hi"}), **fields}
        response = await client.post(path, json=body)
    assert response.status_code == 200, response.text
    return response.json()["choices"]


@pytest.mark.parametrize("seed", range(3))
async def test_a_json_schema_is_followed_by_every_choice(source, seed):
    for choice in await ask(source, CHAT, response_format=SCHEMA_FORMAT, n=2, seed=seed):
        assert choice["finish_reason"] == "stop"
        jsonschema.validate(json.loads(choice["message"]["content"]), CITY_SCHEMA)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("tool_choice", ["required", {"type": "function", "function": {"name": "weather"}}])
async def test_a_call_that_is_demanded_comes_with_arguments_that_validate(source, tool_choice, seed):
    (choice,) = await ask(source, CHAT, tools=[NOW, WEATHER], tool_choice=tool_choice, seed=seed)
    assert choice["finish_reason"] == "tool_calls"
    (call,) = choice["message"]["tool_calls"]
    arguments = json.loads(call["function"]["arguments"])
    if call["function"]["name"] == "weather":
        jsonschema.validate(arguments, CITY_SCHEMA)
    else:
        assert tool_choice == "required"
        assert arguments == {}


async def test_a_completion_is_one_of_the_choices_or_matches_the_regex(source):
    choices = await ask(source, COMPLETIONS, guided_choice=["yes", "no"], n=3)
    assert {choice["text"] for choice in choices} <= {"yes", "no"}
    (choice,) = await ask(source, COMPLETIONS, structured_outputs={"regex": "[a-f]{4}[0-9]{3}"})
    assert re.fullmatch("[a-f]{4}[0-9]{3}", choice["text"])
    assert choice["finish_reason"] == "stop"


async def test_the_best_of_several_with_an_echo_are_each_held_to_the_form_and_the_prompt_is_scored(source):
    form = {"guided_regex": "[a-f]{4}[0-9]{3}", "max_tokens": 20, "seed": 3}
    drawn = await ask(source, COMPLETIONS, **form, n=4)
    best = await ask(source, COMPLETIONS, **form, n=2, best_of=4, echo=True, logprobs=2)
    assert len(source.requests) == 8
    for choice in best:
        assert re.fullmatch("hi[a-f]{4}[0-9]{3}", choice["text"])
        assert choice["text"].removeprefix("hi") in {other["text"] for other in drawn}
        assert "".join(choice["logprobs"]["tokens"]) == choice["text"]
    free = await ask(source, COMPLETIONS, echo=True, logprobs=2, max_tokens=1)
    num_prompt_tokens = len(encoding().encode("hi"))
    for name in ("token_logprobs", "top_logprobs"):
        of_prompt = free[0]["logprobs"][name][:num_prompt_tokens]
        assert [choice["logprobs"][name][:num_prompt_tokens] for choice in best] == [of_prompt] * 2


async def test_a_json_completion_is_one_object_also_behind_an_echo(source):
    for echo, start in ((False, ""), (True, "hi")):
        for choice in await ask(
            source, COMPLETIONS, response_format=SCHEMA_FORMAT, echo=echo, max_tokens=500
        ):
            assert choice["finish_reason"] == "stop"
            jsonschema.validate(json.loads(choice["text"].removeprefix(start)), CITY_SCHEMA)


async def test_a_stop_string_inside_the_form_ends_the_answer_and_may_be_shown(source):
    fields = {"guided_regex": "[a-f]{4}=[0-9]{3}", "stop": "=", "max_tokens": 20}
    (choice,) = await ask(source, COMPLETIONS, **fields, include_stop_str_in_output=True)
    assert re.fullmatch("[a-f]{4}=", choice["text"])
    assert choice["finish_reason"] == "stop"


async def test_ignore_eos_means_nothing_where_the_grammar_says_where_the_answer_ends(source):
    (choice,) = await ask(source, CHAT, response_format=SCHEMA_FORMAT, ignore_eos=True, min_tokens=100)
    assert choice["finish_reason"] == "stop"
    jsonschema.validate(json.loads(choice["message"]["content"]), CITY_SCHEMA)


async def test_a_stream_of_structured_output_is_the_same_text(source):
    fields = {"response_format": SCHEMA_FORMAT, "seed": 5}
    (whole,) = await ask(source, CHAT, **fields)
    async with http_client(make_ingress(source)) as client:
        body = {**BASE, "messages": MESSAGES, "stream": True, **fields}
        events = (await client.post(CHAT, json=body)).text.split("\n\n")
    chunks = [json.loads(event.removeprefix("data: ")) for event in events if event.startswith("data: {")]
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    assert "".join(delta.get("content") or "" for delta in deltas) == whole["message"]["content"]


async def test_the_model_is_told_the_form_of_its_answer(source):
    await ask(source, CHAT, response_format=SCHEMA_FORMAT)
    prompt = encoding().decode_bytes(source.requests[0].prompt_token_ids).decode()
    schema = json.dumps(CITY_SCHEMA, separators=(",", ":"))
    assert (
        f"<|start|>developer<|message|># Response Formats\n\n## city\n\n// A city.\n{schema}<|end|>" in prompt
    )


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        (
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "a", "schema": {"type": "wat"}},
                }
            },
            "response_format",
        ),
        ({"tools": [NOW], "tool_choice": {"type": "function", "function": {"name": "other"}}}, "tool_choice"),
        ({"structured_outputs": {"regex": "(?=a)"}}, "structured_outputs.regex"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_what_cannot_be_enforced_is_a_400_before_anything_runs(source, fields, param, stream):
    async with http_client(make_ingress(source)) as client:
        response = await client.post(CHAT, json={**BASE, "messages": MESSAGES, "stream": stream, **fields})
    assert (response.status_code, response.json()["error"]["param"]) == (400, param)
    assert source.requests == []


async def test_a_refusal_by_the_rank_is_a_400_too():
    refusing = ScriptedSource([InvalidRequestError("No grammars here.", param="grammar")])
    async with http_client(make_ingress(refusing)) as client:
        response = await client.post(CHAT, json={**BASE, "messages": MESSAGES, "guided_regex": "a"})
    assert (response.status_code, response.json()["error"]["param"]) == (400, "grammar")


async def test_a_request_without_demands_carries_no_grammar():
    source = ScriptedSource(tokens(ANSWER))
    await ask(source, CHAT, tools=[WEATHER])
    assert source.requests[0].params.grammar is None


def sampling(**fields):
    return common_pb2.SamplingParams(logit_bias=LIKES_TO_END, **fields)


async def test_grpc_has_the_same_as_typed_fields(source):
    schema = common_pb2.JsonSchema(name="city", schema_json=json.dumps(CITY_SCHEMA), strict=True)
    tool = chat_pb2.Tool(name="weather", parameters_json=json.dumps(CITY_SCHEMA), strict=True)
    now = chat_pb2.Tool(name="now")
    async with grpc_server(make_ingress(source)) as target, AsyncClient(target) as client:
        form = common_pb2.ResponseFormat(json_schema=schema)
        answer = await client.chat(chat_request(MODEL, "hi", response_format=form, sampling=sampling()))
        jsonschema.validate(json.loads(answer.choices[0].content), CITY_SCHEMA)
        request = chat_request(
            MODEL,
            "hi",
            tools=[tool, now],
            tool_choice=chat_pb2.TOOL_CHOICE_REQUIRED,
            allowed_tools=["weather"],
            sampling=sampling(),
        )
        (call,) = (await client.chat(request)).choices[0].tool_calls
        assert call.name == "weather"
        jsonschema.validate(json.loads(call.arguments_json), CITY_SCHEMA)
        for form, pattern in (
            (common_pb2.ResponseFormat(regex="[0-9]{3}"), "[0-9]{3}"),
            (common_pb2.ResponseFormat(choices=common_pb2.Choices(texts=["ab", "cd"])), "ab|cd"),
            (common_pb2.ResponseFormat(lark='start: "ab" | "cd"'), "ab|cd"),
            (common_pb2.ResponseFormat(json_object=True), r"(?s)\{.*\}"),
        ):
            generated = await client.generate(
                generate_request(MODEL, "hi", response_format=form, sampling=sampling(max_tokens=300))
            )
            assert re.fullmatch(pattern, generated.choices[0].text)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"response_format": common_pb2.ResponseFormat(regex="[")}, "structured_outputs.regex"),
        ({"response_format": common_pb2.ResponseFormat(json_schema=common_pb2.JsonSchema())}, "name"),
        ({"allowed_tools": ["other"]}, "tool_choice"),
        ({"allowed_tools": ["other"], "tool_choice": chat_pb2.TOOL_CHOICE_NONE}, "tool_choice"),
    ],
)
async def test_grpc_refuses_what_cannot_be_enforced(source, fields, param):
    async with grpc_server(make_ingress(source)) as target, AsyncClient(target) as client:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await client.chat(chat_request(MODEL, "hi", **fields))
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert param in caught.value.details()
