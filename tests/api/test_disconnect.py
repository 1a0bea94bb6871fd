"""A client that leaves stops its request at once, over real connections."""

import asyncio
import time

import grpc
import httpx
import pytest

from gptoss_ray.client import AsyncClient, chat_request
from tests.support.ingresses import MODEL, encoding, grpc_server, http_server, make_ingress, tokens
from tests.support.scripted_source import Endless, ScriptedSource

CHAT = "/v1/chat/completions"
BODY = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}], "ignore_eos": True}
START = tokens("<|channel|>final<|message|>Count")
WORD = encoding().encode("word")[0]
TALKING = [*START, Endless(WORD, pause_s=0.05)]
SILENT = [*START, Endless()]


def wait_until_closed(source: ScriptedSource, num_requests: int = 1) -> None:
    deadline_s = time.monotonic() + 1.0
    while source.open_ids or len(source.closed_ids) < num_requests:
        assert time.monotonic() < deadline_s, "the request still runs a second after its client left"
        time.sleep(0.005)


@pytest.mark.parametrize("script", [TALKING, SILENT])
@pytest.mark.parametrize("n", [1, 2])
def test_leaving_an_http_stream_closes_the_request(script, n):
    source = ScriptedSource(script)
    with http_server(make_ingress(source)) as url, httpx.Client(base_url=url) as client:
        with client.stream("POST", CHAT, json={**BODY, "stream": True, "n": n}) as response:
            lines = response.iter_lines()
            assert next(lines).startswith("data: ")
            assert len(source.open_ids) == n
        wait_until_closed(source, n)


@pytest.mark.parametrize("script", [TALKING, [Endless()]])
@pytest.mark.parametrize("stream", [False, True])
def test_giving_up_before_an_http_answer_closes_the_request(script, stream):
    source = ScriptedSource(script if not stream else [Endless()])
    with http_server(make_ingress(source)) as url, httpx.Client(base_url=url) as client:
        with pytest.raises(httpx.ReadTimeout):
            client.post(CHAT, json={**BODY, "stream": stream}, timeout=0.3)
        assert len(source.requests) == 1
        wait_until_closed(source)


@pytest.mark.parametrize("script", [TALKING, SILENT])
async def test_cancelling_a_grpc_stream_closes_the_request(script):
    source = ScriptedSource(script)
    async with grpc_server(make_ingress(source)) as target, AsyncClient(target) as client:
        request = chat_request(MODEL, "hi")
        request.sampling.ignore_eos = True
        pieces = client.stream_chat(request)
        assert (await anext(pieces)).choice.content == "Count"
        assert len(source.open_ids) == 1
        await pieces.aclose()
        await source.wait_until_closed(timeout_s=1.0)


async def test_a_grpc_deadline_closes_the_request():
    source = ScriptedSource(SILENT)
    async with grpc_server(make_ingress(source)) as target, AsyncClient(target) as client:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await client.chat(chat_request(MODEL, "hi"), timeout_s=0.2)
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        await source.wait_until_closed(timeout_s=1.0)


async def test_a_slow_reader_does_not_hold_up_another():
    source = ScriptedSource(TALKING)
    async with grpc_server(make_ingress(source)) as target, AsyncClient(target) as client:
        slow, fast = (
            client.stream_chat(chat_request(MODEL, "a")),
            client.stream_chat(chat_request(MODEL, "b")),
        )
        await anext(slow)
        for _ in range(5):
            await asyncio.wait_for(anext(fast), 1.0)
        await slow.aclose()
        await fast.aclose()
        await source.wait_until_closed(2)
