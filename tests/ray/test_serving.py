from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator

import grpc
import httpx
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from gptoss_ray.protos.gptoss.v1 import (
    chat_pb2,
    chat_pb2_grpc,
    common_pb2,
    generation_pb2,
    generation_pb2_grpc,
)
from tests.support.eval_harness import EvalHarness
from tests.support.served_app import ServedApp
from tests.support.served_page import check_chat_page


@pytest.fixture
def http(served: ServedApp) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=served.base_url, headers=served.headers, timeout=60) as client:
        yield client


@pytest.fixture(scope="module")
def channel(served: ServedApp) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(f"127.0.0.1:{served.grpc_port}") as channel:
        yield channel


def completion(text: str = "hello", max_tokens: int = 12, **fields: object) -> dict[str, object]:
    return {"model": "tiny", "prompt": text, "max_tokens": max_tokens, "seed": 1} | fields


def events(response: httpx.Response) -> Iterator[dict]:
    for line in response.iter_lines():
        if line.startswith("data: {"):
            yield json.loads(line.removeprefix("data: "))


def wait_until_idle(served: ServedApp, within_s: float) -> float:
    """Return the seconds until the rank holds no sequence and no KV block of one."""
    started_at = time.monotonic()
    while True:
        stats = served.rank_stats()
        waited_s = time.monotonic() - started_at
        if stats["num_live_requests"] == 0 and stats["engine"]["num_running"] == 0:
            assert stats["engine"]["kv_cache_usage"] == 0
            return waited_s
        assert waited_s < within_s, stats
        time.sleep(0.02)


def wait_until_served(http: httpx.Client, within_s: float = 90.0) -> None:
    deadline = time.monotonic() + within_s
    while http.post("/v1/completions", json=completion(), timeout=within_s).status_code != 200:
        assert time.monotonic() < deadline
        time.sleep(0.5)


def test_a_chat_is_answered_over_http_whole_and_streamed_alike(http):
    chat = {
        "model": "tiny",
        "messages": [{"role": "user", "content": "hello"}],
        "max_tokens": 12,
        "temperature": 0,
        "logprobs": True,
    }
    whole = http.post("/v1/chat/completions", json=chat).raise_for_status().json()
    assert whole["usage"]["completion_tokens"] == 12
    with http.stream("POST", "/v1/chat/completions", json=chat | {"stream": True}) as response:
        deltas = [choice["delta"] for event in events(response) for choice in event["choices"]]
    for field in ("content", "reasoning"):
        streamed = "".join(delta.get(field) or "" for delta in deltas)
        assert streamed == (whole["choices"][0]["message"].get(field) or "")


def test_the_grpc_services_stream_the_tokens_of_http(http, channel, served):
    whole = http.post("/v1/completions", json=completion(temperature=0)).raise_for_status().json()
    stub = generation_pb2_grpc.GenerationServiceStub(channel)
    request = generation_pb2.GenerateRequest(
        model="tiny",
        text="hello",
        sampling=common_pb2.SamplingParams(max_tokens=12, temperature=0, seed=1),
    )
    answer = stub.Generate(request, metadata=served.grpc_metadata)
    streamed = list(
        stub.StreamGenerate(
            generation_pb2.StreamGenerateRequest(generation=request), metadata=served.grpc_metadata
        )
    )
    ids = [id_ for message in streamed for id_ in message.choice.token_ids]
    assert answer.choices[0].text == whole["choices"][0]["text"]
    assert ids == list(answer.choices[0].token_ids)
    assert len(ids) == 12


def test_a_harness_reads_log_likelihoods_that_add_up(http):
    harness = EvalHarness(http, "tiny")
    pairs = [
        ("The capital of", " France"),
        ("The capital of France", " is"),
        ("The capital of", " France is"),
    ]
    results = harness.log_likelihoods(pairs)
    first, second, both = (value for value, _ in results)
    assert first < 0
    assert both == pytest.approx(first + second)
    assert harness.log_likelihoods(pairs, max_tokens=0) == results
    assert [harness.log_likelihoods([pair])[0] for pair in pairs] == results


def test_the_grpc_chat_streams_what_it_answers_whole(channel, served):
    stub = chat_pb2_grpc.ChatServiceStub(channel)
    request = chat_pb2.ChatRequest(
        model="tiny",
        messages=[chat_pb2.Message(role=chat_pb2.ROLE_USER, content="hello")],
        sampling=common_pb2.SamplingParams(max_tokens=12, temperature=0),
    )
    whole = stub.Chat(request, metadata=served.grpc_metadata).choices[0]
    deltas = [
        message.choice
        for message in stub.StreamChat(
            chat_pb2.StreamChatRequest(chat=request), metadata=served.grpc_metadata
        )
    ]
    assert "".join(delta.content for delta in deltas) == whole.content
    assert "".join(delta.reasoning for delta in deltas) == whole.reasoning


def test_grpc_health_and_reflection_need_no_key(channel):
    health = health_pb2_grpc.HealthStub(channel)
    assert health.Check(health_pb2.HealthCheckRequest()).status == health_pb2.HealthCheckResponse.SERVING
    reflection = reflection_pb2_grpc.ServerReflectionStub(channel)
    request = reflection_pb2.ServerReflectionRequest(list_services="")
    (response,) = reflection.ServerReflectionInfo(iter([request]))
    names = {service.name for service in response.list_services_response.service}
    assert {"gptoss.v1.GenerationService", "gptoss.v1.ChatService", "grpc.health.v1.Health"} <= names


def test_both_protocols_refuse_a_wrong_key(served, channel):
    wrong = httpx.post(
        f"{served.base_url}/v1/completions", json=completion(), headers={"Authorization": "Bearer x"}
    )
    assert wrong.status_code == 401
    stub = generation_pb2_grpc.GenerationServiceStub(channel)
    with pytest.raises(grpc.RpcError) as refusal:
        stub.Generate(
            generation_pb2.GenerateRequest(model="tiny", text="x"), metadata=[("authorization", "Bearer x")]
        )
    assert refusal.value.code() is grpc.StatusCode.UNAUTHENTICATED
    assert httpx.get(f"{served.base_url}/health").status_code == 200


def test_the_proxies_list_no_applications_to_whoever_asks(served, http, channel):
    assert httpx.get(f"{served.base_url}/-/routes").status_code == 401
    assert http.get("/-/routes").status_code == 404
    list_applications = channel.unary_unary("/ray.serve.RayServeAPIService/ListApplications")
    with pytest.raises(grpc.RpcError) as refusal:
        list_applications(b"")
    assert refusal.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_a_refusal_of_the_engine_keeps_its_status(http):
    answer = http.post("/v1/completions", json=completion("hello " * 3000))
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "context_length_exceeded"


def test_a_disconnect_over_http_frees_the_blocks_within_a_second(http, served):
    with http.stream("POST", "/v1/completions", json=completion(max_tokens=1900, stream=True)) as response:
        stream = events(response)
        next(stream)
        assert served.rank_stats()["engine"]["num_running"] == 1
    wait_until_idle(served, within_s=10.0)


def test_a_cancelled_grpc_call_frees_the_blocks_within_a_second(channel, served):
    stub = generation_pb2_grpc.GenerationServiceStub(channel)
    request = generation_pb2.GenerateRequest(
        model="tiny", text="hello", sampling=common_pb2.SamplingParams(max_tokens=1900)
    )
    call = stub.StreamGenerate(
        generation_pb2.StreamGenerateRequest(generation=request), metadata=served.grpc_metadata
    )
    next(call)
    assert served.rank_stats()["engine"]["num_running"] == 1
    call.cancel()
    wait_until_idle(served, within_s=10.0)


async def one_stream(client: httpx.AsyncClient, number: int, max_tokens: int) -> tuple[str, str]:
    request = completion(f"stream {number}", max_tokens, stream=True, seed=number, min_tokens=max_tokens)
    text = ""
    async with client.stream("POST", "/v1/completions", json=request) as response:
        assert response.status_code == 200
        async for line in response.aiter_lines():
            if line.startswith("data: {"):
                event = json.loads(line.removeprefix("data: "))
                assert "error" not in event, event
                text += "".join(choice["text"] for choice in event["choices"])
    return f"stream {number}", text


async def many_streams(served: ServedApp, num_streams: int, max_tokens: int) -> dict[str, str]:
    limits = httpx.Limits(max_connections=num_streams)
    async with httpx.AsyncClient(
        base_url=served.base_url, headers=served.headers, timeout=120, limits=limits
    ) as client:
        return dict(await asyncio.gather(*(one_stream(client, n, max_tokens) for n in range(num_streams))))


async def test_64_streams_at_once_share_messages_and_mix_nothing(served):
    before = served.rank_stats()
    together = await many_streams(served, 64, 16)
    after = served.rank_stats()
    num_tokens = after["engine"]["num_generation_tokens"] - before["engine"]["num_generation_tokens"]
    num_steps = after["engine"]["num_steps"] - before["engine"]["num_steps"]
    num_messages = after["num_messages"] - before["num_messages"]
    assert num_tokens == 64 * 16
    assert num_messages <= num_steps
    assert num_messages < num_tokens / 4
    alone = await many_streams(served, 4, 16)
    assert alone == {name: together[name] for name in alone}
    assert wait_until_idle(served, within_s=5.0) < 5.0


def test_a_lost_ingress_frees_the_blocks_of_its_requests(http, served):
    with http.stream("POST", "/v1/completions", json=completion(max_tokens=1900, stream=True)) as response:
        stream = events(response)
        next(stream)
        (ingress,) = served.processes("ServeReplica:gptoss:Ingress")
        ingress.kill()
        assert wait_until_idle(served, within_s=10.0) < 10.0
    wait_until_served(http)


def test_a_stream_whose_rank_is_lost_goes_on_from_the_replica_that_comes_instead(http, served):
    body = completion(max_tokens=400, min_tokens=400, logprobs=0, stream=True)
    with http.stream("POST", "/v1/completions", json=body) as response:
        undisturbed = [event["choices"] for event in events(response)]
    with http.stream("POST", "/v1/completions", json=body) as response:
        stream = events(response)
        disturbed = [next(stream)["choices"]]
        assert served.ask("kill_ranks") == 1
        disturbed += [event["choices"] for event in stream]
    assert pieces(disturbed) == pieces(undisturbed)
    assert "gptoss_migrations_total{" in http.get("/metrics").text


def pieces(choices):
    """Return tokens, their log probabilities and the end of a stream, however its events are cut."""
    flat = [choice for event in choices for choice in event]
    logprobs = [choice["logprobs"] for choice in flat if choice["logprobs"]]
    return (
        [token for each in logprobs for token in each["tokens"]],
        [logprob for each in logprobs for logprob in each["token_logprobs"]],
        "".join(choice["text"] for choice in flat),
        flat[-1]["finish_reason"],
    )


def test_the_chat_page_comes_through_the_proxy_as_it_is(served):
    check_chat_page(served.base_url)
