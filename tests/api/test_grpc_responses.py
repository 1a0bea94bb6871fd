"""ResponsesService: the Responses API of HTTP as typed messages."""

from __future__ import annotations

import asyncio
import json

import grpc
import pytest

from gptoss_ray.client import AsyncClient, RetryPolicy, error_details, new_response
from gptoss_ray.protos.gptoss.v1 import chat_pb2, common_pb2, responses_pb2
from gptoss_ray.serving import grpc_responses
from gptoss_ray.serving.grpc_response_requests import create_response_request
from tests.support.ingresses import (
    ANSWER,
    CALL,
    FORMED,
    MODEL,
    encoding,
    grpc_server,
    http_client,
    make_ingress,
    tokens,
)
from tests.support.scripted_source import Endless, ScriptedSource

Status = responses_pb2.ResponseStatus
WEATHER = responses_pb2.ResponseTool(
    function=chat_pb2.Tool(name="weather", parameters_json='{"type":"object"}')
)
TALKING = [*tokens("<|channel|>final<|message|>Count"), Endless(encoding().encode("word")[0])]


def item(**kind):
    return responses_pb2.ResponseItem(**kind)


def said(text, role=chat_pb2.ROLE_USER):
    return item(message=responses_pb2.MessageItem(role=role, text=text))


async def events_of(stream):
    return [event async for event in stream]


def kinds(events):
    return [event.WhichOneof("event") for event in events]


async def test_a_response_is_reasoning_and_a_message_and_is_kept():
    async with grpc_server(make_ingress(tokens(ANSWER))) as target, AsyncClient(target) as client:
        made = await client.create_response(
            new_response(MODEL, "17 + 25?", sampling=common_pb2.SamplingParams(top_logprobs=1))
        )
        assert await client.get_response(made.id) == made
        page = await client.list_input_items(responses_pb2.ListInputItemsRequest(id=made.id))
        await client.delete_response(made.id)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await client.get_response(made.id)
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    assert (made.status, made.store, made.background) == (Status.RESPONSE_STATUS_COMPLETED, True, False)
    reasoning, message = made.output
    assert list(reasoning.reasoning.texts) == ["17 and 25."]
    assert (message.message.text, message.message.phase) == (
        "It is 42.",
        responses_pb2.MESSAGE_PHASE_FINAL_ANSWER,
    )
    assert b"".join(entry.chosen.token for entry in message.message.logprobs) == b"It is 42."
    assert {len(entry.top) for entry in message.message.logprobs} == {1}
    assert made.usage.completion_tokens == len(tokens(ANSWER))
    (listed,) = page.items
    assert (listed.message.text, listed.message.role, page.has_more) == (
        "17 + 25?",
        chat_pb2.ROLE_USER,
        False,
    )


async def test_events_are_numbered_and_put_together_to_the_response():
    async with grpc_server(make_ingress(tokens(CALL))) as target, AsyncClient(target) as client:
        events = await events_of(client.stream_response(new_response(MODEL, "Weather?", tools=[WEATHER])))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert kinds(events)[:2] == ["created", "in_progress"]
    assert kinds(events)[-1] == "completed"
    texts = dict.fromkeys(("reasoning_delta", "text_delta", "arguments_delta"), "")
    for event in events:
        if (kind := event.WhichOneof("event")) in texts:
            texts[kind] += getattr(event, kind).text
    assert texts == {
        "reasoning_delta": "Look it up.",
        "text_delta": "One moment.",
        "arguments_delta": '{"city":"Bern"}',
    }
    done = [event.item_done.item for event in events if event.WhichOneof("event") == "item_done"]
    assert done == list(events[-1].completed.output)
    assert [each.WhichOneof("item") for each in done] == ["reasoning", "message", "function_call"]
    assert done[1].message.phase == responses_pb2.MESSAGE_PHASE_COMMENTARY
    assert (done[2].function_call.name, done[2].function_call.arguments_json) == (
        "weather",
        '{"city":"Bern"}',
    )


async def test_a_tool_loop_and_what_came_before_make_the_prompt_of_http():
    source = ScriptedSource(tokens(ANSWER))
    ingress = make_ingress(source)
    namespace = responses_pb2.NamespaceTool(name="files", functions=[chat_pb2.Tool(name="read")])
    items = [
        said("Be brief.", chat_pb2.ROLE_DEVELOPER),
        said("Weather?"),
        item(reasoning=responses_pb2.ReasoningItem(texts=["Look."])),
        item(
            function_call=responses_pb2.FunctionCallItem(
                call_id="c1", name="weather", arguments_json='{"city":"Bern"}'
            )
        ),
        item(call_output=responses_pb2.CallOutputItem(call_id="c1", output="sunny")),
        item(custom_tool_call=responses_pb2.CustomToolCallItem(call_id="c2", name="patch", input="a\nb")),
        item(call_output=responses_pb2.CallOutputItem(call_id="c2", output="ok", is_custom=True)),
    ]
    wanted = new_response(
        MODEL,
        items,
        instructions="Go.",
        reasoning_effort=chat_pb2.REASONING_EFFORT_HIGH,
        tools=[
            WEATHER,
            responses_pb2.ResponseTool(custom=responses_pb2.CustomTool(name="patch", description="Patch.")),
            responses_pb2.ResponseTool(namespace=namespace),
        ],
        tool_choice=chat_pb2.TOOL_CHOICE_NONE,
        sampling=common_pb2.SamplingParams(temperature=0.5, seed=4, max_tokens=60),
    )
    body = {
        "model": MODEL,
        "instructions": "Go.",
        "reasoning": {"effort": "high"},
        "temperature": 0.5,
        "seed": 4,
        "max_output_tokens": 60,
        "tool_choice": "none",
        "tools": [
            {"type": "function", "name": "weather", "parameters": {"type": "object"}},
            {"type": "custom", "name": "patch", "description": "Patch."},
            {"type": "namespace", "name": "files", "tools": [{"type": "function", "name": "read"}]},
        ],
        "input": [
            {"role": "developer", "content": "Be brief."},
            {"role": "user", "content": "Weather?"},
            {"type": "reasoning", "content": [{"type": "reasoning_text", "text": "Look."}]},
            {"type": "function_call", "call_id": "c1", "name": "weather", "arguments": '{"city":"Bern"}'},
            {"type": "function_call_output", "call_id": "c1", "output": "sunny"},
            {"type": "custom_tool_call", "call_id": "c2", "name": "patch", "input": "a\nb"},
            {"type": "custom_tool_call_output", "call_id": "c2", "output": "ok"},
        ],
    }
    async with grpc_server(ingress) as target, AsyncClient(target) as client, http_client(ingress) as http:
        made = await client.create_response(wanted)
        assert (await http.post("/v1/responses", json=body)).status_code == 200
        page = await client.list_input_items(
            responses_pb2.ListInputItemsRequest(id=made.id, ascending=True, limit=6)
        )
        await client.create_response(new_response(MODEL, "And?", previous_response_id=made.id))
    by_grpc, by_http, later = source.requests
    assert (by_grpc.prompt_token_ids, by_grpc.params) == (by_http.prompt_token_ids, by_http.params)
    assert [each.WhichOneof("item") for each in page.items] == [each.WhichOneof("item") for each in items][:6]
    assert page.has_more
    assert b"It is 42." in encoding().decode_bytes(later.prompt_token_ids)


async def test_a_schema_holds_the_answer():
    source = ScriptedSource(tokens(FORMED))
    form = common_pb2.ResponseFormat(
        json_schema=common_pb2.JsonSchema(name="city", schema_json=json.dumps({"type": "object"}))
    )
    async with grpc_server(make_ingress(source)) as target, AsyncClient(target) as client:
        await client.create_response(new_response(MODEL, "x", response_format=form))
    assert source.requests[0].params.grammar is not None


async def test_a_response_in_the_background_is_followed_from_anywhere_and_cancelled():
    source = ScriptedSource(TALKING)
    sampling = common_pb2.SamplingParams(ignore_eos=True)
    wanted = new_response(MODEL, "Count.", background=True, sampling=sampling)
    async with grpc_server(make_ingress(source)) as target, AsyncClient(target) as client:
        stream = client.stream_response(wanted)
        seen = [await anext(stream) for _ in range(8)]
        await stream.aclose()
        response_id = seen[0].created.id
        assert (await client.get_response(response_id)).status == Status.RESPONSE_STATUS_IN_PROGRESS
        following = client.follow_response(response_id, starting_after=3)
        again = [await anext(following) for _ in range(4)]
        assert again == seen[4:]
        cancelled = await client.cancel_response(response_id)
        assert cancelled.status == Status.RESPONSE_STATUS_CANCELLED
        rest = await events_of(following)
        assert kinds(rest)[-1] == "failed"
        await source.wait_until_closed(timeout_s=10)


async def test_a_background_stream_that_breaks_is_followed_by_the_client(monkeypatch):
    monkeypatch.setattr("gptoss_ray.serving.grpc_status.RETRY_UNAVAILABLE_S", 0.0)
    wanted = new_response(MODEL, "17 + 25?", background=True)
    retry = RetryPolicy(first_backoff_s=0.001)
    source = ScriptedSource(tokens(ANSWER))
    async with grpc_server(make_ingress(source)) as target, AsyncClient(target, retry=retry) as client:
        whole = await events_of(client.stream_response(wanted))
        convert, left = grpc_responses.event_message, [5, 7, 9]

        def breaking(event):
            if left and event["sequence_number"] >= left[0]:
                left.pop(0)
                raise grpc_responses_lost()
            return convert(event)

        monkeypatch.setattr(grpc_responses, "event_message", breaking)
        broken = await events_of(client.stream_response(wanted))
    assert left == []
    assert [event.sequence_number for event in broken] == [event.sequence_number for event in whole]
    assert kinds(broken) == kinds(whole)
    assert broken[-1].completed.output[-1].message.text == "It is 42."
    assert len(source.requests) == 2


def grpc_responses_lost():
    from gptoss_ray.errors import UnavailableError

    return UnavailableError("lost")


async def test_an_abort_by_id_ends_a_response():
    source = ScriptedSource(TALKING)
    sampling = common_pb2.SamplingParams(ignore_eos=True)
    async with grpc_server(make_ingress(source)) as target, AsyncClient(target) as client:
        call = asyncio.create_task(
            client.create_response(new_response(MODEL, "x", sampling=sampling), request_id="job-1")
        )
        while not source.open_ids:
            await asyncio.sleep(0.002)
        assert await client.abort("job-1") == 1
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call
    assert caught.value.code() is grpc.StatusCode.CANCELLED


@pytest.mark.parametrize(
    ("wanted", "field"),
    [
        (new_response(MODEL, []), "response.input"),
        (new_response(MODEL, [item()]), "response.input[0]"),
        (
            new_response(MODEL, "x", sampling=common_pb2.SamplingParams(temperature=9)),
            "response.sampling.temperature",
        ),
        (new_response(MODEL, "x", sampling=common_pb2.SamplingParams(n=2)), "response.sampling.n"),
        (
            new_response(MODEL, "x", response_format=common_pb2.ResponseFormat(regex="a")),
            "response.response_format",
        ),
        (new_response(MODEL, "x", tools=[responses_pb2.ResponseTool()]), "response.tools[0]"),
        (new_response(MODEL, "x", background=True, store=False), "response.background"),
        (new_response(MODEL, "x", previous_response_id="resp_none"), "response.previous_response_id"),
    ],
)
async def test_a_wrong_field_is_named(wanted, field):
    once = RetryPolicy(max_attempts=1)
    async with grpc_server(make_ingress([])) as target, AsyncClient(target, retry=once) as client:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await client.create_response(wanted)
    details = error_details(caught.value)
    if caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT:
        assert [violation.field for violation in details.field_violations] == [field]
    else:
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND


async def test_responses_of_another_key_are_unknown():
    ingress = make_ingress(tokens(ANSWER), api_keys=["a", "b"])
    async with (
        grpc_server(ingress) as target,
        AsyncClient(target, api_key="a") as client,
        AsyncClient(target, api_key="b") as other,
    ):
        made = await client.create_response(new_response(MODEL, "x"))
        for call in (other.get_response(made.id), other.delete_response(made.id)):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call
            assert caught.value.code() is grpc.StatusCode.NOT_FOUND


def test_left_out_fields_are_left_out():
    request = create_response_request(responses_pb2.CreateResponseRequest(response=new_response(MODEL, "x")))
    assert (request.store, request.max_output_tokens, request.temperature) == (None, None, None)
    assert not request.wants_logprobs
