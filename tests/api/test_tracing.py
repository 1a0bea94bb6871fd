"""Spans of requests over both protocols, up to where they are handed to a rank."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator

import grpc
import pytest
from opentelemetry.trace import SpanKind, StatusCode

from gptoss_ray.client import chat_request
from gptoss_ray.config import ServingConfig
from gptoss_ray.errors import RequestLostError, UnavailableError
from gptoss_ray.protos.gptoss.v1 import chat_pb2, chat_pb2_grpc
from tests.support.ingresses import ANSWER, MODEL, grpc_server, http_client, make_ingress, tokens
from tests.support.marked_requests import KEY_MARK, PROMPT_MARK
from tests.support.scripted_source import ScriptedSource
from tests.support.traces import (
    PARENT_ID,
    TRACE_ID,
    TRACEPARENT,
    UNSAMPLED,
    MemoryTracer,
    parent_id,
    span_id,
    trace_id,
)
from tests.support.unreliable_source import UnreliableSource

CHAT = "/v1/chat/completions"
BODY = {"model": MODEL, "messages": [{"role": "user", "content": PROMPT_MARK}]}
KEY = {"authorization": f"Bearer {KEY_MARK}"}


@pytest.fixture
def tracer() -> Iterator[MemoryTracer]:
    tracer = MemoryTracer()
    yield tracer
    tracer.close()


@pytest.mark.parametrize("stream", [False, True])
async def test_a_request_has_a_span_below_its_callers_and_its_tokens_are_asked_for_below_that(tracer, stream):
    source = ScriptedSource(tokens(ANSWER))
    async with http_client(make_ingress(source, tracer=tracer)) as client:
        headers = {"traceparent": TRACEPARENT, "x-request-id": "mine"}
        await client.post(CHAT, json=BODY | {"stream": stream, "n": 2}, headers=headers)
    (span,) = tracer.spans().values()
    assert (span.name, span.kind) == (f"POST {CHAT}", SpanKind.SERVER)
    assert (trace_id(span), parent_id(span)) == (TRACE_ID, PARENT_ID)
    assert dict(span.attributes) == {
        "http.request.method": "POST",
        "http.route": CHAT,
        "http.response.status_code": 200,
        "gptoss.request_id": "mine",
    }
    assert [request.traceparent for request in source.requests] == [f"00-{TRACE_ID}-{span_id(span)}-01"] * 2


async def test_without_a_caller_that_traces_a_request_is_the_root_of_a_trace(tracer):
    async with http_client(make_ingress(tokens(ANSWER), tracer=tracer)) as client:
        for traceparent in ("", "nonsense", "00-00000000000000000000000000000000-0000000000000000-01"):
            await client.post(CHAT, json=BODY, headers={"traceparent": traceparent})
            (span,) = tracer.spans().values()
            assert parent_id(span) == ""
            tracer.exporter.clear()


async def test_what_the_caller_does_not_sample_is_not_traced_anywhere(tracer):
    source = ScriptedSource(tokens(ANSWER))
    async with http_client(make_ingress(source, tracer=tracer)) as client:
        await client.post(CHAT, json=BODY, headers={"traceparent": UNSAMPLED})
    assert tracer.spans() == {}
    assert source.requests[0].traceparent == ""


async def test_without_tracing_a_callers_trace_goes_no_further():
    source = ScriptedSource(tokens(ANSWER))
    async with http_client(make_ingress(source)) as client:
        await client.post(CHAT, json=BODY, headers={"traceparent": TRACEPARENT})
    assert source.requests[0].traceparent == ""
    assert not ServingConfig.model_validate({"models": [{"name": "a", "checkpoint": "demo"}]}).tracing


def test_without_tracing_nothing_of_opentelemetry_is_imported():
    code = "import sys, gptoss_ray.tracing, gptoss_ray.ranks.request_traces; print([*sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "'gptoss_ray.tracing'" in run.stdout
    assert "'opentelemetry" not in run.stdout


async def test_a_call_over_grpc_has_the_same(tracer):
    source = ScriptedSource(tokens(ANSWER))
    request = chat_request(MODEL, PROMPT_MARK)
    metadata = [("traceparent", TRACEPARENT), ("x-request-id", "mine")]
    async with (
        grpc_server(make_ingress(source, tracer=tracer)) as address,
        grpc.aio.insecure_channel(address) as channel,
    ):
        stub = chat_pb2_grpc.ChatServiceStub(channel)
        await stub.Chat(request, metadata=metadata)
        stream = stub.StreamChat(chat_pb2.StreamChatRequest(chat=request), metadata=metadata)
        assert [piece async for piece in stream]
    spans = tracer.spans()
    assert spans.keys() == {"Chat", "StreamChat"}
    for span, sent in zip((spans["Chat"], spans["StreamChat"]), source.requests, strict=True):
        assert (trace_id(span), parent_id(span), span.kind) == (TRACE_ID, PARENT_ID, SpanKind.SERVER)
        assert span.attributes["rpc.grpc.status_code"] == 0
        assert span.attributes["gptoss.request_id"] == "mine"
        assert sent.traceparent == f"00-{TRACE_ID}-{span_id(span)}-01"


async def test_a_fault_of_the_server_is_an_error_of_the_span_and_a_callers_is_not(tracer):
    played = iter([[UnavailableError("gone.")]])
    async with http_client(make_ingress(lambda request: next(played), tracer=tracer)) as client:
        await client.post(CHAT, json=BODY)
        await client.post("/v1/completions", json={"model": "gpt-9", "prompt": "a"})
    spans = tracer.spans()
    assert spans[f"POST {CHAT}"].status.status_code is StatusCode.ERROR
    assert spans[f"POST {CHAT}"].attributes["error.type"] == "503"
    assert spans["POST /v1/completions"].status.status_code is StatusCode.UNSET


async def test_a_migration_has_a_span_from_the_loss_to_the_next_token(tracer):
    source = UnreliableSource(ScriptedSource(tokens(ANSWER)), [2])
    async with http_client(make_ingress(source, tracer=tracer)) as client:
        await client.post(CHAT, json=BODY)
    spans = tracer.spans()
    migration, request = spans["migration"], spans[f"POST {CHAT}"]
    assert parent_id(migration) == span_id(request)
    assert dict(migration.attributes) == {"gptoss.migration": 1, "gptoss.position": 2}
    assert request.start_time < migration.start_time <= migration.end_time < request.end_time


async def test_a_request_that_is_lost_for_good_ends_its_migrations_as_errors(tracer):
    source = ScriptedSource(lambda request: [RequestLostError("lost.")])
    limits = ServingConfig.model_validate(
        {"models": [{"name": "a", "checkpoint": "demo"}], "limits": {"max_migrations": 1}}
    ).limits
    async with http_client(make_ingress(source, tracer=tracer, limits=limits)) as client:
        await client.post(CHAT, json=BODY)
    assert tracer.spans()["migration"].attributes["error.type"] == "request_lost"


async def test_work_in_the_background_belongs_to_the_request_that_began_it(tracer):
    source = ScriptedSource(tokens(ANSWER))
    async with http_client(make_ingress(source, tracer=tracer)) as client:
        body = {"model": MODEL, "input": "hi", "background": True}
        await client.post("/v1/responses", json=body, headers={"traceparent": TRACEPARENT})
        await source.wait_until_closed()
    assert TRACE_ID in source.requests[0].traceparent


async def test_no_span_has_a_prompt_an_answer_or_a_key(tracer):
    source = UnreliableSource(ScriptedSource(tokens(ANSWER)), [2])
    async with http_client(make_ingress(source, tracer=tracer, api_keys=[KEY_MARK])) as client:
        await client.post(CHAT, json=BODY, headers=KEY)
        await client.post("/v1/completions", json={"model": MODEL, "prompt": PROMPT_MARK}, headers=KEY)
        await client.get(f"/v1/models/{PROMPT_MARK}", headers={"authorization": f"Bearer {PROMPT_MARK}"})
    tracer.flush()
    told = " ".join(json.dumps(json.loads(span.to_json())) for span in tracer.exporter.get_finished_spans())
    assert "http.route" in told
    for secret in (PROMPT_MARK, KEY_MARK, "It is 42", "17 and 25"):
        assert secret not in told


async def test_health_and_the_pages_are_not_traced(tracer):
    async with http_client(make_ingress([], tracer=tracer)) as client:
        for path in ("/live", "/ready", "/", "/dashboard"):
            assert (await client.get(path)).status_code == 200
    assert tracer.spans() == {}
