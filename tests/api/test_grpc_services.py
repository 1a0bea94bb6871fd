"""gRPC beside chats and completions: tokens, models, the server, aborts, options of streams."""

from __future__ import annotations

import asyncio

import grpc
import pytest

from gptoss_ray.client import AsyncClient, chat_request, generate_request, tokenize_request
from gptoss_ray.config import LimitsConfig
from gptoss_ray.protos.gptoss.v1 import chat_pb2, common_pb2, generation_pb2, tokenize_pb2
from tests.support.grammars import CITY_SCHEMA
from tests.support.ingresses import (
    ALIAS,
    ANSWER,
    MAX_CONTEXT,
    MODEL,
    encoding,
    grpc_server,
    http_client,
    make_ingress,
    tokens,
)
from tests.support.scripted_source import Endless, ScriptedSource

TALKING = [*tokens("<|channel|>final<|message|>Count"), Endless(encoding().encode("word")[0])]


def user(text):
    return chat_pb2.Message(role=chat_pb2.ROLE_USER, content=text)


async def test_tokens_are_those_of_http():
    ingress = make_ingress([])
    tool = chat_pb2.Tool(name="f", description="Do.", parameters_json='{"type":"object"}')
    asked = tokenize_request(
        MODEL,
        [user("Hi 🎈")],
        tools=[tool],
        reasoning_effort=chat_pb2.REASONING_EFFORT_HIGH,
        return_tokens=True,
    )
    body = {
        "messages": [{"role": "user", "content": "Hi 🎈"}],
        "tools": [
            {
                "type": "function",
                "function": {"name": "f", "description": "Do.", "parameters": {"type": "object"}},
            }
        ],
        "reasoning_effort": "high",
    }
    async with grpc_server(ingress) as target, AsyncClient(target) as client, http_client(ingress) as http:
        chat = await client.tokenize(asked)
        same = (await http.post("/tokenize", json=body)).json()
        asked.chat.omit_generation_prompt = True
        closed = await client.tokenize(asked)
        raw = await client.tokenize(tokenize_request("", "<|start|>user"))
        text = await client.detokenize(raw.token_ids)
        info = await client.tokenizer_info(model=ALIAS)
        same_info = (await http.get("/tokenizer_info")).json()
    assert list(chat.token_ids) == same["tokens"]
    assert chat.max_context == same["max_model_len"] == MAX_CONTEXT
    assert b"".join(chat.tokens) == encoding().decode_bytes(chat.token_ids)
    assert list(closed.token_ids) == list(chat.token_ids)[: len(closed.token_ids)] != list(chat.token_ids)
    assert list(raw.token_ids) == encoding().encode_with_special("<|start|>user")
    assert (text, raw.tokens) == ("<|start|>user", [])
    assert (info.bos_token, info.eos_token, info.pad_token, info.tokenizer_class, info.max_context) == tuple(
        same_info[key]
        for key in ("bos_token", "eos_token", "pad_token", "tokenizer_class", "model_max_length")
    )


@pytest.mark.parametrize(
    "request_",
    [
        tokenize_pb2.TokenizeRequest(model=MODEL),
        tokenize_pb2.TokenizeRequest(chat=tokenize_pb2.TokenizedChat()),
        tokenize_pb2.TokenizeRequest(
            chat=tokenize_pb2.TokenizedChat(messages=[chat_pb2.Message(content="x")])
        ),
    ],
)
async def test_nothing_to_tokenize_is_an_invalid_argument(request_):
    async with grpc_server(make_ingress([])) as target, AsyncClient(target) as client:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await client.tokenize(request_)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_model_is_found_by_its_alias_and_an_unknown_one_is_not():
    async with grpc_server(make_ingress([])) as target, AsyncClient(target) as client:
        assert await client.get_model(ALIAS) == (await client.list_models())[0]
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await client.get_model("other")
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


async def test_the_server_tells_its_version_and_limits():
    ingress = make_ingress([], limits=LimitsConfig(max_choices=3, max_body_bytes=2048))
    async with grpc_server(ingress) as target, AsyncClient(target) as client, http_client(ingress) as http:
        info = await client.server_info()
        assert info.version == (await http.get("/version")).json()["version"]
    assert (info.limits.max_choices, info.limits.max_body_bytes, info.limits.max_tools) == (3, 2048, 128)


async def test_several_prompts_get_their_choices_in_order():
    source = ScriptedSource(tokens("abc"))
    options = common_pb2.SamplingParams(n=2, max_tokens=2)
    request = generate_request(MODEL, ["One", encoding().encode("Two")], sampling=options)
    async with grpc_server(make_ingress(source)) as target, AsyncClient(target) as client:
        response = await client.generate(request)
    assert [choice.index for choice in response.choices] == [0, 1, 2, 3]
    prompts = [encoding().decode_bytes(each.prompt_token_ids) for each in source.requests]
    assert prompts == [b"One", b"One", b"Two", b"Two"]


@pytest.mark.parametrize("prompts", [[], [generation_pb2.Prompt()], [generation_pb2.Prompt(text="x")] * 129])
async def test_no_prompt_among_several_and_too_many_are_refused(prompts):
    request = generation_pb2.GenerateRequest(model=MODEL, prompts=generation_pb2.Prompts(prompts=prompts))
    async with grpc_server(make_ingress([])) as target, AsyncClient(target) as client:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await client.generate(request)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_usage_so_far_is_in_every_piece_where_it_is_asked_for():
    request = chat_pb2.StreamChatRequest(chat=chat_request(MODEL, "x"), continuous_usage=True)
    async with grpc_server(make_ingress(tokens(ANSWER))) as target, AsyncClient(target) as client:
        pieces = [piece async for piece in client.stream_chat(request)]
        without = [piece async for piece in client.stream_chat(request.chat)]
    counts = [piece.usage.completion_tokens for piece in pieces]
    assert counts == sorted(counts)
    assert 0 < counts[0] < counts[-1] == len(tokens(ANSWER))
    assert not pieces[-1].HasField("choice")
    assert [piece.HasField("usage") for piece in without] == [False] * (len(without) - 1) + [True]


async def test_a_schema_that_is_not_shown_holds_the_answer_and_stays_out_of_the_prompt():
    source = ScriptedSource(tokens(ANSWER))
    schema = str(CITY_SCHEMA).replace("'", '"').replace("True", "true").replace("False", "false")
    unshown = common_pb2.ResponseFormat(unshown_schema_json=schema)
    shown = common_pb2.ResponseFormat(json_schema=common_pb2.JsonSchema(name="city", schema_json=schema))
    async with grpc_server(make_ingress(source)) as target, AsyncClient(target) as client:
        for form in (unshown, shown):
            await client.chat(chat_request(MODEL, "x", response_format=form))
    assert source.requests[0].params.grammar == source.requests[1].params.grammar is not None
    prompts = [encoding().decode_bytes(each.prompt_token_ids) for each in source.requests]
    assert [b"Response Formats" in prompt for prompt in prompts] == [False, True]


async def test_the_request_id_comes_back_and_stands_in_the_log(caplog):
    caplog.set_level("INFO")
    async with grpc_server(make_ingress([])) as target, grpc.aio.insecure_channel(target) as channel:
        call = channel.unary_unary("/gptoss.v1.ModelService/ListModels")
        for sent in ("mine-7", "has spaces", None):
            done = call(b"", metadata=(("x-request-id", sent),) if sent else ())
            await done
            told = dict(await done.trailing_metadata())["x-request-id"]
            assert (told == sent) == (sent == "mine-7")
            assert f"request_id={told} method=ListModels code=OK" in caplog.text


async def test_an_abort_by_id_ends_the_callers_requests_of_both_protocols_and_nobody_elses():
    source = ScriptedSource(TALKING)
    ingress = make_ingress(source, api_keys=["a", "b"])
    request = chat_request(MODEL, "x", sampling=common_pb2.SamplingParams(ignore_eos=True, n=2))
    async with (
        grpc_server(ingress) as target,
        AsyncClient(target, api_key="a") as client,
        AsyncClient(target, api_key="b") as other,
    ):
        call = asyncio.create_task(client.chat(request, request_id="job-1"))
        theirs = asyncio.create_task(other.chat(request, request_id="job-1"))
        while len(source.open_ids) < 4:
            await asyncio.sleep(0.002)
        assert await client.abort("job-2") == 0
        assert await client.abort("job-1") == 2
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call
        assert caught.value.code() is grpc.StatusCode.CANCELLED
        assert not theirs.done()
        async with http_client(ingress, headers={"x-api-key": "b"}) as http:
            answer = (await http.delete("/v1/requests/job-1")).json()
        assert answer == {"id": "job-1", "object": "request", "num_aborted": 2}
        with pytest.raises(grpc.aio.AioRpcError):
            await theirs


async def test_an_abort_over_grpc_ends_a_request_of_http():
    source = ScriptedSource(TALKING)
    ingress = make_ingress(source)
    async with grpc_server(ingress) as target, AsyncClient(target) as client, http_client(ingress) as http:
        body = {"model": MODEL, "prompt": "x", "ignore_eos": True, "max_tokens": 500}
        call = asyncio.create_task(http.post("/v1/completions", json=body, headers={"x-request-id": "job-1"}))
        while not source.open_ids:
            await asyncio.sleep(0.002)
        assert await client.abort("job-1") == 1
        answer = await call
        assert (answer.status_code, answer.json()["error"]["code"]) == (499, "aborted")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await client.abort("")
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
