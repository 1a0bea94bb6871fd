"""`gptoss-ray serve --proxy haproxy`: one server with two ingress replicas; the last test ends it."""

from __future__ import annotations

import json
import re
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import httpx
import psutil
import pytest
import yaml

from gptoss_ray.protos.gptoss.v1 import (
    chat_pb2,
    chat_pb2_grpc,
    common_pb2,
    generation_pb2,
    generation_pb2_grpc,
)
from gptoss_ray.serving.haproxy import find_haproxy
from gptoss_ray.serving.open_ports import open_ports
from tests.support.serve_command import ServeCommand, serve_command
from tests.support.served_app import API_KEY, write_config
from tests.support.served_page import check_chat_page

INGRESS = "ServeReplica:gptoss:Ingress"
DIRECT_HTTP_PORTS = range(30_000, 31_001)
LONG = 1900
KEY = [("authorization", f"Bearer {API_KEY}")]

pytestmark = pytest.mark.skipif(find_haproxy() is None, reason="there is no HAProxy here")


@dataclass(frozen=True)
class Server:
    """The command, and a client of each protocol."""

    command: ServeCommand
    http: httpx.Client
    channel: grpc.Channel

    @property
    def chats(self) -> chat_pb2_grpc.ChatServiceStub:
        return chat_pb2_grpc.ChatServiceStub(self.channel)

    @property
    def generation(self) -> generation_pb2_grpc.GenerationServiceStub:
        return generation_pb2_grpc.GenerationServiceStub(self.channel)

    def processes(self, title: str) -> list[psutil.Process]:
        return [each for each in self.command.processes() if title in " ".join(each.cmdline())]

    def num_running(self) -> float:
        """Return how many sequences the rank has; the ingress says nothing of a rank that answers it late."""
        while "gptoss_sequences_running{" not in (answer := self.http.get("/metrics")).text:
            assert answer.status_code == 200
        return metric(answer, "gptoss_sequences_running")

    def of_each_ingress(self, name: str) -> list[float]:
        """Return what each ingress replica has counted, asked on its own port."""
        ports = [
            connection.laddr.port
            for process in self.processes(INGRESS)
            for connection in process.net_connections("tcp")
            if connection.status == psutil.CONN_LISTEN and connection.laddr.port in DIRECT_HTTP_PORTS
        ]
        assert len(ports) == 2
        return [metric(self.http.get(f"http://127.0.0.1:{port}/metrics"), name) for port in ports]

    @contextmanager
    def nothing_comes_to_its_end(self) -> Iterator[None]:
        """Assert that requests of the block are ended at once, and not by their last token."""
        before = self.of_each_ingress("gptoss_choices_total")
        yield
        deadline = time.monotonic() + 60.0
        while self.num_running():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert self.of_each_ingress("gptoss_choices_total") == before


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path) -> Iterator[Server]:
    path = write_config(tmp_path_factory.mktemp("haproxy") / "serve.yaml", tiny_checkpoint, num_ingresses=2)
    config = yaml.safe_load(path.read_text())
    http_url = f"http://127.0.0.1:{config['http_options']['port']}"
    grpc_address = f"127.0.0.1:{config['grpc_options']['port']}"
    with (
        serve_command(path, "--proxy", "haproxy") as command,
        httpx.Client(base_url=http_url, headers=dict(KEY), timeout=60) as http,
        grpc.insecure_channel(grpc_address) as channel,
    ):
        command.read_until("Ctrl-C stops the server.", within_s=240)
        yield Server(command, http, channel)


def metric(answer: httpx.Response, name: str) -> float:
    """Return the sum over all labels."""
    lines = re.findall(rf"^{name}\{{.*\}} (\S+)$", answer.raise_for_status().text, re.MULTILINE)
    return sum(map(float, lines))


def chat(**fields: object) -> dict[str, object]:
    message = {"role": "user", "content": "hello"}
    return {"model": "tiny", "messages": [message], "max_tokens": 12, "temperature": 0} | fields


def grpc_chat() -> chat_pb2.ChatRequest:
    message = chat_pb2.Message(role=chat_pb2.ROLE_USER, content="hello")
    sampling = common_pb2.SamplingParams(max_tokens=12, temperature=0)
    return chat_pb2.ChatRequest(model="tiny", messages=[message], sampling=sampling)


def completion(**fields: object) -> dict[str, object]:
    """Return a request for a long answer, each token of which can be told at once."""
    return {"model": "tiny", "prompt": "hello", "max_tokens": LONG, "min_tokens": LONG, "seed": 1} | fields


def grpc_completion() -> generation_pb2.GenerateRequest:
    sampling = common_pb2.SamplingParams(max_tokens=LONG, min_tokens=LONG, seed=1)
    return generation_pb2.GenerateRequest(model="tiny", text="hello", sampling=sampling)


def choices(response: httpx.Response) -> Iterator[dict[str, Any]]:
    for line in response.iter_lines():
        if line.startswith("data: {"):
            yield from json.loads(line.removeprefix("data: "))["choices"]


def test_haproxy_answers_and_no_process_listens_beyond_loopback(server):
    assert server.processes(str(find_haproxy()))
    assert open_ports(server.command.processes()) == []
    assert "open to other hosts" not in server.command.output


def test_a_chat_is_the_same_over_both_protocols_whole_and_streamed(server):
    whole = server.http.post("/v1/chat/completions", json=chat()).raise_for_status().json()
    message = whole["choices"][0]["message"]
    expected = message.get("reasoning") or "", message.get("content") or ""
    assert any(expected)
    with server.http.stream("POST", "/v1/chat/completions", json=chat(stream=True)) as response:
        streamed = [choice["delta"] for choice in choices(response)]
    assert tuple("".join(d.get(f) or "" for d in streamed) for f in ("reasoning", "content")) == expected
    answer = server.chats.Chat(grpc_chat(), metadata=KEY).choices[0]
    assert (answer.reasoning, answer.content) == expected
    pieces = [
        each.choice
        for each in server.chats.StreamChat(chat_pb2.StreamChatRequest(chat=grpc_chat()), metadata=KEY)
    ]
    assert ("".join(p.reasoning for p in pieces), "".join(p.content for p in pieces)) == expected


def test_the_request_id_comes_back_once(server):
    given = server.http.get("/v1/models", headers={"x-request-id": "mine"})
    assert given.headers.get_list("x-request-id") == ["mine"]
    (made,) = server.http.get("/v1/models").headers.get_list("x-request-id")
    assert made


def test_the_chat_page_comes_through_haproxy_as_it_is(server):
    check_chat_page(str(server.http.base_url))


def test_errors_keep_their_status_over_both_protocols(server):
    assert server.http.get("/v1/models", headers={"authorization": "Bearer x"}).status_code == 401
    assert server.http.post("/v1/chat/completions", content=b" " * (9 << 20)).status_code == 413
    with pytest.raises(grpc.RpcError) as refusal:
        server.chats.Chat(grpc_chat())
    assert refusal.value.code() is grpc.StatusCode.UNAUTHENTICATED


def test_neither_haproxy_nor_a_replica_lists_the_application_to_whoever_asks(server):
    for path in ("/-/routes", "/-/ROUTES", "/-/%72outes"):
        assert server.http.get(path, headers={"authorization": "Bearer x"}).status_code == 401
        assert server.http.get(path).status_code == 404
    list_applications = server.channel.unary_unary("/ray.serve.RayServeAPIService/ListApplications")
    with pytest.raises(grpc.RpcError) as refusal:
        list_applications(b"")
    assert refusal.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_a_client_that_leaves_a_stream_or_does_not_wait_for_an_answer_ends_its_request(server):
    with server.nothing_comes_to_its_end():
        with server.http.stream("POST", "/v1/completions", json=completion(stream=True)) as response:
            stream = choices(response)
            next(stream)
            assert server.num_running() == 1
        with pytest.raises(httpx.ReadTimeout):
            server.http.post("/v1/completions", json=completion(), timeout=0.3)


def test_a_deadline_ends_a_grpc_call(server):
    with server.nothing_comes_to_its_end(), pytest.raises(grpc.RpcError) as late:
        list(
            server.generation.StreamGenerate(
                generation_pb2.StreamGenerateRequest(generation=grpc_completion()), metadata=KEY, timeout=0.3
            )
        )
    assert late.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED


def test_every_cancelled_grpc_stream_of_both_ingress_replicas_ends_its_request(server):
    with server.nothing_comes_to_its_end():
        calls = [
            server.generation.StreamGenerate(
                generation_pb2.StreamGenerateRequest(generation=grpc_completion()), metadata=KEY
            )
            for _ in range(24)
        ]
        for call in calls:
            next(call)
        assert all(server.of_each_ingress("gptoss_choices_in_progress"))
        # Each at another moment between two of its tokens.
        for call in calls:
            next(call)
            call.cancel()


def test_ctrl_c_leaves_no_process_and_no_file(server):
    command = server.processes(str(find_haproxy()))[0].cmdline()
    config = Path(command[command.index("-f") + 1])
    session_folder = config.parents[1]
    assert session_folder.name.startswith("gptoss-ray-")
    assert config.exists()
    server.command.process.send_signal(signal.SIGINT)
    assert server.command.wait() == 0
    assert server.command.processes() == []
    assert not session_folder.exists()
    assert "Traceback" not in server.command.output
