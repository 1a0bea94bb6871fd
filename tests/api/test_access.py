"""Who gets in, with how much, and for how long: keys of a file, quotas and deadlines, over both protocols."""

import asyncio
import contextlib
import re

import grpc
import pytest
from fastapi.routing import APIRoute
from starlette.routing import Route

from gptoss_ray.client import AsyncClient, chat_request
from gptoss_ray.protos.gptoss.v1 import chat_pb2, chat_pb2_grpc
from gptoss_ray.serving.auth import PUBLIC_PATHS, PUBLIC_RPCS, ApiKeys
from gptoss_ray.serving.grpc_service import GRPC_SERVICER_FUNCTIONS
from gptoss_ray.serving.ingress import build_fastapi_app
from gptoss_ray.serving.pages import Pages
from tests.support.ingresses import ANSWER, MODEL, grpc_server, http_client, make_ingress, tokens
from tests.support.scripted_source import Endless, Pause, ScriptedSource
from tests.unit.serving.test_key_file import line

CHAT = "/v1/chat/completions"
BODY = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}]}
KEY = {"authorization": "Bearer key-a"}


@pytest.fixture
def key_file(tmp_path):
    """Return a function that writes a key with some quota and returns the file."""

    def write(quota=""):
        path = tmp_path / "keys.yaml"
        path.write_text(line("alice", "key-a", quota) + line("bob", "key-b"))
        return path

    return write


def open_paths(app):
    """Every path that the app routes, parameters filled in, with each of its methods."""
    for route in app.router.routes:
        assert isinstance(route, APIRoute | Route), f"{route} is of a kind that this test cannot reach"
        for method in route.methods or ():
            yield method, re.sub(r"\{[^}]*\}", "x", route.path)


async def test_every_http_route_but_the_public_ones_asks_for_a_key(key_file):
    ingress = make_ingress(ScriptedSource(tokens(ANSWER)), api_keys_file=key_file())
    routes = list(open_paths(build_fastapi_app(ingress)))
    assert len(routes) > 20
    public = PUBLIC_PATHS | Pages.load().paths
    async with http_client(ingress) as client:
        for method, path in routes:
            for headers in ({}, {"authorization": "Bearer wrong"}, {"x-api-key": ""}):
                response = await client.request(method, path, headers=headers)
                assert (response.status_code != 401) == (path in public), (method, path)
    assert {"/health", "/live", "/ping", "/ready"} == PUBLIC_PATHS, "each addition is a decision"
    files = {"/", "/dashboard", *(path for path in public if path.startswith("/page/"))}
    assert public == PUBLIC_PATHS | files, "of the pages only their own files"


class _Recorder:
    """Takes what the servicer functions register."""

    def __init__(self):
        self.methods = {}

    def add_generic_rpc_handlers(self, handlers):
        pass

    def add_registered_method_handlers(self, service, handlers):
        self.methods |= {f"/{service}/{name}": handler for name, handler in handlers.items()}


def every_rpc(ingress):
    """Every RPC that Serve's proxy registers, with whether it streams."""
    recorder = _Recorder()
    for path in GRPC_SERVICER_FUNCTIONS:
        module, _, name = path.rpartition(".")
        add = getattr(__import__(module, fromlist=[name]), name)
        add(ingress, recorder)
    return {path: handler.response_streaming for path, handler in recorder.methods.items()}


async def test_every_rpc_but_health_asks_for_a_key(key_file):
    ingress = make_ingress(ScriptedSource(tokens(ANSWER)), api_keys_file=key_file())
    rpcs = every_rpc(ingress)
    assert len(rpcs) > 7
    async with grpc_server(ingress) as target, grpc.aio.insecure_channel(target) as channel:
        for path, streams in rpcs.items():
            if path.startswith("/grpc.health.v1.Health/"):
                assert path.rpartition("/")[2] in PUBLIC_RPCS
                continue
            for metadata in ((), (("authorization", "Bearer wrong"),)):
                kind = channel.unary_stream if streams else channel.unary_unary
                call = kind(path)(b"", metadata=metadata)
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await (call.read() if streams else call)
                assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED, path
    assert {"Check", "Watch", "List"} == PUBLIC_RPCS, "each addition is a decision"


async def test_the_log_names_the_key_and_never_shows_it(key_file, caplog):
    caplog.set_level("DEBUG")
    async with http_client(make_ingress(tokens(ANSWER), api_keys_file=key_file())) as client:
        assert (await client.post(CHAT, json=BODY, headers=KEY)).status_code == 200
        assert (await client.post(CHAT, json=BODY, headers={"x-api-key": "key-zzz"})).status_code == 401
    assert "key=alice" in caplog.text
    assert "key-a" not in caplog.text
    assert "key-zzz" not in caplog.text


async def test_a_key_over_its_requests_is_told_when_to_come_back_and_others_are_served(key_file):
    ingress = make_ingress(tokens(ANSWER), api_keys_file=key_file(", requests_per_minute: 2"))
    async with http_client(ingress) as client:
        answers = [await client.get("/v1/models", headers=KEY) for _ in range(3)]
        assert [answer.status_code for answer in answers] == [200, 200, 429]
        error = answers[-1].json()["error"]
        assert (error["type"], error["code"]) == ("rate_limit_error", "rate_limit_exceeded")
        assert 1 <= int(answers[-1].headers["retry-after"]) <= 30
        other = await client.get("/v1/models", headers={"x-api-key": "key-b"})
        assert other.status_code == 200
        assert (await client.get("/health")).status_code == 200


async def test_a_key_over_its_tokens_is_refused_before_anything_runs(key_file):
    source = ScriptedSource(tokens(ANSWER))
    ingress = make_ingress(source, api_keys_file=key_file(", tokens_per_minute: 5"))
    async with http_client(ingress) as client:
        for stream in (False, True):
            first = await client.post(CHAT, json=BODY, headers=KEY)
            refused = await client.post(CHAT, json={**BODY, "stream": stream}, headers=KEY)
            assert refused.status_code == 429
            assert first.status_code == (200 if not stream else 429)
    assert len(source.requests) == 1


async def test_a_key_has_so_many_requests_under_way_and_a_client_that_leaves_makes_room(key_file):
    source = ScriptedSource([Endless(token_id=None)])
    ingress = make_ingress(source, api_keys_file=key_file(", max_concurrent: 1"))
    async with (
        grpc_server(ingress) as target,
        AsyncClient(target, api_key="key-a") as client,
        http_client(ingress) as http,
    ):
        for _ in range(2):
            running = asyncio.create_task(client.chat(chat_request(MODEL, "hi")))
            while not source.open_ids:
                await asyncio.sleep(0.01)
            assert (await http.get("/v1/models", headers=KEY)).status_code == 429, "over both protocols"
            running.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await running
            await source.wait_until_closed()
    # The last cancellation still has to reach the gate.
    for _ in range(100):
        async with http_client(ingress) as http:
            status = (await http.get("/v1/models", headers=KEY)).status_code
        if status == 200:
            return
        await asyncio.sleep(0.01)
    raise AssertionError("the request that was cancelled still counts")


async def test_the_share_of_a_key_goes_with_its_requests(key_file):
    source = ScriptedSource(tokens(ANSWER))
    async with http_client(make_ingress(source, api_keys_file=key_file(", share: 2.5"))) as client:
        await client.post(CHAT, json=BODY, headers=KEY)
        await client.post(CHAT, json=BODY, headers={"x-api-key": "key-b"})
    assert [request.share for request in source.requests] == [2.5, 1.0]


@pytest.mark.parametrize("script", [[Endless(token_id=None)], [*tokens(ANSWER)[:4], Pause(60)]])
async def test_at_its_deadline_a_request_ends_with_504_whether_it_waits_or_runs(script):
    source = ScriptedSource(script)
    async with http_client(make_ingress(source)) as client:
        response = await client.post(CHAT, json=BODY, headers={"x-request-timeout-s": "0.1"})
        error = response.json()["error"]
        assert (response.status_code, error["code"]) == (504, "deadline_exceeded")
        assert error["type"] == "server_error"
        await source.wait_until_closed()


async def test_at_its_deadline_a_running_stream_ends_with_the_error_as_an_event():
    source = ScriptedSource([*tokens(ANSWER)[:8], Endless(token_id=None)])
    async with http_client(make_ingress(source)) as client:
        response = await client.post(
            CHAT, json={**BODY, "stream": True}, headers={"x-request-timeout-s": "0.1"}
        )
    *_, last, done = response.text.strip().split("\n\n")
    assert response.status_code == 200
    assert "deadline_exceeded" in last
    assert done == "data: [DONE]"
    await source.wait_until_closed()


async def test_all_choices_end_at_the_deadline():
    source = ScriptedSource([Endless(token_id=None)])
    async with http_client(make_ingress(source)) as client:
        response = await client.post(CHAT, json={**BODY, "n": 3}, headers={"x-request-timeout-s": "0.1"})
    assert response.status_code == 504
    await source.wait_until_closed(3)


async def test_a_grpc_call_ends_at_the_deadline_in_its_metadata():
    source = ScriptedSource([Endless(token_id=None)])
    async with grpc_server(make_ingress(source)) as target, grpc.aio.insecure_channel(target) as channel:
        chats = chat_pb2_grpc.ChatServiceStub(channel)
        request = chat_request(MODEL, "hi")
        metadata = (("x-request-timeout-s", "0.1"),)
        whole = chats.Chat(request, metadata=metadata)
        streamed = chats.StreamChat(chat_pb2.StreamChatRequest(chat=request), metadata=metadata)
        for next_message in (whole, streamed.read()):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await next_message
            assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
            assert "x-request-timeout-s" in caught.value.details(), "it is the server's word"
    await source.wait_until_closed(2)


async def test_a_timeout_that_is_no_number_is_a_400_that_names_it():
    async with http_client(make_ingress(tokens(ANSWER))) as client:
        response = await client.post(CHAT, json=BODY, headers={"x-request-timeout-s": "soon"})
    assert (response.status_code, response.json()["error"]["param"]) == (400, "x-request-timeout-s")


async def test_a_key_of_many_is_told_from_all_others_whatever_their_number(key_file):
    keys = ApiKeys([f"key-{number}" for number in range(200)], file=key_file())
    tenants = {keys.tenant(None, f"key-{number}") for number in range(200)}
    assert len(tenants) == 200
