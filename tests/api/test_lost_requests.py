"""What clients see of a request whose rank is lost: nothing, however far it was."""

from __future__ import annotations

import json

import grpc
import pytest

from gptoss_ray.config import LimitsConfig
from gptoss_ray.protos.gptoss.v1 import chat_pb2, chat_pb2_grpc
from tests.support.ingresses import ANSWER, CALL, MODEL, grpc_server, http_client, make_ingress, tokens
from tests.support.scripted_source import ScriptedSource
from tests.support.unreliable_source import UnreliableSource

CHAT = {"model": MODEL, "messages": [{"role": "user", "content": "17 + 25"}], "seed": 1}
STREAM = CHAT | {"stream": True, "stream_options": {"include_usage": True}}
NUM_TOKENS = {ANSWER: len(tokens(ANSWER)), CALL: len(tokens(CALL))}


def lossy(markup, lost_at):
    """An ingress whose ranks say `markup`, the n-th of them up to the n-th position."""
    replay = ScriptedSource(tokens(markup))
    return make_ingress(UnreliableSource(replay, lost_at), limits=LimitsConfig(max_migrations=5))


async def chunks(ingress, body):
    """Return what the stream says, without the ids that are new each time, and its last usage."""
    async with http_client(ingress) as client:
        response = await client.post("/v1/chat/completions", json=body)
    assert response.status_code == 200
    events = [line.removeprefix("data: ") for line in response.text.split("\n\n") if line]
    assert events.pop() == "[DONE]"
    parsed = [json.loads(event) for event in events]
    for delta in (choice["delta"] for chunk in parsed for choice in chunk["choices"]):
        for call in delta.get("tool_calls", ()):
            call.pop("id", None)
    return [chunk["choices"] for chunk in parsed], parsed[-1]["usage"]


@pytest.mark.parametrize(
    ("markup", "position"), [(text, k) for text in (ANSWER, CALL) for k in range(0, NUM_TOKENS[text], 2)]
)
async def test_a_stream_says_the_same_wherever_its_rank_is_lost(markup, position):
    body = STREAM | {"tools": [{"type": "function", "function": {"name": "weather"}}]}
    undisturbed = await chunks(lossy(markup, []), body)
    assert await chunks(lossy(markup, [position]), body) == undisturbed


async def test_a_stop_string_is_found_across_a_loss():
    body = STREAM | {"stop": ["is 4"]}
    undisturbed = await chunks(lossy(ANSWER, []), body)
    for position in range(NUM_TOKENS[ANSWER] - 2):
        assert await chunks(lossy(ANSWER, [position]), body) == undisturbed


async def test_all_choices_of_a_lost_request_go_on():
    body = STREAM | {"n": 3}
    (undisturbed, usage), (disturbed, usage_then) = [
        await chunks(lossy(ANSWER, lost_at), body) for lost_at in ([], [3, 9])
    ]
    assert usage_then == usage
    by_index = [
        [[choice for chunk in stream for choice in chunk if choice["index"] == index] for index in range(3)]
        for stream in (undisturbed, disturbed)
    ]
    assert by_index[0] == by_index[1]


async def test_grpc_says_the_same_through_a_loss():
    request = chat_pb2.ChatRequest(
        model=MODEL, messages=[chat_pb2.Message(role=chat_pb2.ROLE_USER, content="17 + 25")]
    )
    answers = []
    for lost_at in ([], [2, 8]):
        async with (
            grpc_server(lossy(ANSWER, lost_at)) as address,
            grpc.aio.insecure_channel(address) as channel,
        ):
            answer = await chat_pb2_grpc.ChatServiceStub(channel).Chat(request)
            answers.append((answer.choices, answer.usage))
    assert answers[0] == answers[1]


async def test_migrations_are_counted():
    async with http_client(lossy(ANSWER, [1, 4])) as client:
        await client.post("/v1/chat/completions", json=CHAT)
        metrics = (await client.get("/metrics")).text
    assert f'gptoss_migrations_total{{model="{MODEL}"}} 2.0' in metrics
    assert "gptoss_failures_total{" not in metrics


async def test_a_request_that_is_lost_again_and_again_ends_with_an_error_that_may_be_sent_again():
    async with http_client(lossy(ANSWER, [1, 2, 3, 4, 5, 6])) as client:
        response = await client.post("/v1/chat/completions", json=CHAT)
    assert response.status_code == 503
    assert response.json()["error"]["code"] == "unavailable"
    assert "send it again" in response.json()["error"]["message"]
