from __future__ import annotations

import asyncio
import json

import grpc
import pytest

from gptoss_ray.bench.streaming_clients import GrpcStreams, HttpStreams
from gptoss_ray.errors import GptossError
from gptoss_ray.protos.gptoss.v1 import chat_pb2
from tests.support.ingresses import MODEL, grpc_server, http_server, make_ingress, tokens
from tests.support.scripted_source import Endless, Pause, ScriptedSource

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
OPENING = tokens("<|channel|>final<|message|>")
(LETTER,) = tokens("x")
http = HttpStreams("test", 80)


def event(**delta):
    return b"data: " + json.dumps({"id": "chatcmpl-7", "choices": [{"delta": delta}]}).encode() + b"\n\n"


def chunk(data):
    return b"%x\r\n%s\r\n" % (len(data), data)


def test_a_token_came_when_the_piece_came_that_completes_its_event():
    body = [event(role="assistant", content=""), event(content="x"), event(content="xx"), b"data: [DONE]\n\n"]
    answer = HEAD + b"".join(map(chunk, body)) + b"0\r\n\r\n"
    ends = [answer.index(data) + len(data) for data in body[1:3]]
    for split in range(1, len(answer)):
        came = http.read([(1.0, answer[:split]), (2.0, answer[split:])])
        assert came.id == "chatcmpl-7"
        assert came.moments_s == tuple(1.0 if end <= split else 2.0 for end in (ends[0], ends[1], ends[1]))


def test_events_that_share_a_chunk_are_told_apart():
    answer = HEAD + chunk(event(content="x") + event(content="x") + b"data: [DONE]\n\n") + b"0\r\n\r\n"
    assert http.read([(3.0, answer)]).moments_s == (3.0, 3.0)


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        (b"HTTP/1.1 429 Busy\r\ncontent-length: 4\r\n\r\nfull", "HTTP 429.*full"),
        (HEAD + chunk(event(content="x")), "broke off"),
        (HEAD + chunk(b'data: {"error": {"message": "rank lost"}}\n\n'), "rank lost"),
    ],
)
def test_a_refused_or_broken_stream_is_an_error(answer, problem):
    with pytest.raises(GptossError, match=f"(?s){problem}"):
        http.read([(1.0, answer)])


async def test_over_grpc_each_message_is_a_piece():
    def message(content):
        response = chat_pb2.StreamChatResponse(id="chatcmpl-7")
        response.choice.content = content
        return response.SerializeToString()

    async with grpc.aio.insecure_channel("localhost:1") as channel:
        answer = GrpcStreams(channel).read([(1.0, message("")), (2.0, message("x")), (3.0, message("xx"))])
    assert (answer.id, answer.moments_s) == ("chatcmpl-7", (2.0, 3.0, 3.0))


@pytest.fixture
def source():
    return ScriptedSource([*OPENING, *[LETTER, Pause(0.02)] * 3])


async def streamed(client):
    pieces = []
    await client.record(MODEL, 100, pieces)
    return client.read(pieces)


def check(answer, source):
    (request,) = source.requests
    assert request.request_id == f"{answer.id}-0"
    assert len(answer.moments_s) == 3
    assert len(set(answer.moments_s)) == 3
    assert list(answer.moments_s) == sorted(answer.moments_s)


async def test_tokens_are_noted_as_they_come_over_http(source):
    with http_server(make_ingress(source)) as url:
        host, port = url.removeprefix("http://").split(":")
        check(await streamed(HttpStreams(host, int(port))), source)


async def test_tokens_are_noted_as_they_come_over_grpc(source):
    async with grpc_server(make_ingress(source)) as address, grpc.aio.insecure_channel(address) as channel:
        check(await streamed(GrpcStreams(channel)), source)


async def test_a_recording_that_is_cancelled_keeps_what_came_and_leaves_the_server():
    source = ScriptedSource([*OPENING, Endless(*LETTER)])
    with http_server(make_ingress(source)) as url:
        host, port = url.removeprefix("http://").split(":")
        pieces = []
        recording = asyncio.create_task(HttpStreams(host, int(port)).record(MODEL, 500, pieces))
        while len(pieces) < 3:
            await asyncio.sleep(0.005)
        recording.cancel()
        await asyncio.gather(recording, return_exceptions=True)
        await source.wait_until_closed()
    assert len(pieces) >= 3


async def test_where_nobody_listens_it_is_said(unused_tcp_port):
    with pytest.raises(GptossError, match=f"{unused_tcp_port} takes no connection"):
        await HttpStreams("127.0.0.1", unused_tcp_port).record(MODEL, 8, [])
    async with grpc.aio.insecure_channel(f"127.0.0.1:{unused_tcp_port}") as channel:
        with pytest.raises(GptossError, match="UNAVAILABLE"):
            await GrpcStreams(channel).record(MODEL, 8, [])
