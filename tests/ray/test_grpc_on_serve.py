"""What Serve's proxy carries between a gRPC client and the ingress, and what a slow reader costs."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
import yaml

from gptoss_ray.client import Client, RetryPolicy, chat_request, error_details, generate_request
from gptoss_ray.protos.gptoss.v1 import chat_pb2, common_pb2
from tests.support.served_app import API_KEY, ServedApp, serve_app, write_config

MAX_UNREAD = 64
NUM_TOKENS = 1500


@pytest.fixture(scope="module")
def paced(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path) -> Iterator[ServedApp]:
    path = write_config(tmp_path_factory.mktemp("paced") / "serve.yaml", tiny_checkpoint)
    config = yaml.safe_load(path.read_text())
    config["applications"][0]["args"]["limits"] = {"max_unread_tokens": MAX_UNREAD}
    path.write_text(yaml.safe_dump(config))
    with serve_app(path) as app:
        yield app


@pytest.fixture
def client(paced: ServedApp) -> Iterator[Client]:
    # gRPC takes megabytes in advance from a fast server; this one is to notice early that nobody reads.
    options = [("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 16_384)]
    once = RetryPolicy(max_attempts=1)
    with Client(f"127.0.0.1:{paced.grpc_port}", api_key=API_KEY, retry=once, options=options) as client:
        yield client


def long_request(**fields: object):
    wanted = {"max_tokens": NUM_TOKENS, "ignore_eos": True, "seed": 3, "top_logprobs": 5} | fields
    sampling = common_pb2.SamplingParams(**wanted)
    return generate_request("tiny", "hello", sampling=sampling)


def wait_until(condition, what: str, within_s: float = 60.0) -> None:
    deadline_s = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline_s, what
        time.sleep(0.05)


def is_idle(served: ServedApp) -> bool:
    stats = served.rank_stats()
    return stats["num_live_requests"] == 0 and stats["engine"]["kv_cache_usage"] == 0


def num_drawn(served: ServedApp) -> int:
    return served.rank_stats()["engine"]["num_generation_tokens"]


def test_a_grpc_reader_who_stops_pauses_the_sequence_and_misses_nothing(paced, client):
    whole = client.generate(long_request()).choices[0]
    before = num_drawn(paced)
    pieces = client.stream_generate(long_request())
    read = [next(pieces)]
    wait_until(lambda: is_idle(paced), "the sequence of a reader who stopped still holds blocks")
    assert num_drawn(paced) - before < NUM_TOKENS * 0.8
    # Others are served meanwhile.
    assert client.generate(long_request(max_tokens=5)).usage.completion_tokens == 5
    read += pieces
    choices = [piece.choice for piece in read]
    assert "".join(choice.text for choice in choices) == whole.text
    assert [id_ for choice in choices for id_ in choice.token_ids] == list(whole.token_ids)
    logprobs = [entry for choice in choices for entry in choice.logprobs]
    assert logprobs == list(whole.logprobs)
    assert read[-1].usage.completion_tokens == NUM_TOKENS


def test_an_http_reader_who_stops_pauses_the_sequences_and_misses_nothing(paced):
    body = {
        "model": "tiny",
        "prompt": "hello",
        "max_tokens": NUM_TOKENS,
        "ignore_eos": True,
        "seed": 3,
        "n": 8,
        "logprobs": 5,
        "stream": True,
    }
    before = num_drawn(paced)
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(("127.0.0.1", paced.http_port))
        data = json.dumps(body).encode()
        connection.sendall(
            b"POST /v1/completions HTTP/1.1\r\nhost: x\r\nconnection: close\r\nauthorization: Bearer "
            + f"{API_KEY}\r\ncontent-length: {len(data)}\r\n\r\n".encode()
            + data
        )
        received = connection.recv(4096)
        wait_until(lambda: is_idle(paced), "sequences of a reader who stopped still hold blocks", 120)
        assert num_drawn(paced) - before < 8 * NUM_TOKENS * 0.9
        while chunk := connection.recv(1 << 16):
            received += chunk
    text = received.replace(b"\r\n", b"\n").decode()
    events = [
        json.loads(line.removeprefix("data: ")) for line in text.split("\n") if line.startswith("data: {")
    ]
    counts = [0] * 8
    for event in events:
        for choice in event["choices"]:
            counts[choice["index"]] += len((choice["logprobs"] or {"tokens": ()})["tokens"])
    assert "data: [DONE]" in text
    assert counts == [NUM_TOKENS] * 8


def test_the_proxy_carries_details_of_errors_and_request_ids(paced, client):
    wrong = chat_request("tiny", "x", sampling=common_pb2.SamplingParams(temperature=9))
    for call, path in (
        (lambda: client.chat(wrong, request_id="job-7"), "sampling.temperature"),
        (lambda: list(client.stream_chat(wrong, request_id="job-7")), "chat.sampling.temperature"),
    ):
        with pytest.raises(grpc.RpcError) as caught:
            call()
        details = error_details(caught.value)
        assert [violation.field for violation in details.field_violations] == [path]
        assert (details.reason, details.request_id) == ("INVALID_REQUEST", "job-7")
        assert dict(caught.value.trailing_metadata())["x-request-id"] == "job-7"
    with grpc.insecure_channel(f"127.0.0.1:{paced.grpc_port}") as channel:
        list_models = channel.unary_unary("/gptoss.v1.ModelService/ListModels")
        metadata = (*paced.grpc_metadata, ("x-request-id", "job-8"))
        _, call = list_models.with_call(b"", metadata=metadata)
        assert dict(call.trailing_metadata())["x-request-id"] == "job-8"


@pytest.mark.parametrize("streams", [False, True])
def test_a_deadline_ends_the_sequence_and_frees_its_blocks(paced, client, streams):
    with pytest.raises(grpc.RpcError) as caught:
        if streams:
            list(client.stream_generate(long_request(n=4), timeout_s=0.6))
        else:
            client.generate(long_request(n=4), timeout_s=0.6)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    wait_until(lambda: is_idle(paced), "a sequence outlived its deadline", 10)


def test_an_abort_by_id_ends_sequences_at_the_rank(paced, client):
    failures = []

    def ask():
        try:
            client.generate(long_request(n=2), request_id="job-9")
        except grpc.RpcError as error:
            failures.append(error.code())

    asking = threading.Thread(target=ask)
    asking.start()
    wait_until(lambda: paced.rank_stats()["num_live_requests"] == 2, "nothing to abort")
    assert client.abort("job-9") == 2
    asking.join()
    assert failures == [grpc.StatusCode.CANCELLED]
    wait_until(lambda: is_idle(paced), "an aborted sequence still holds blocks", 10)
    assert client.abort("job-9") == 0


def test_a_stream_is_resumed_over_the_real_engine_bit_for_bit(client):
    request = chat_pb2.StreamChatRequest(
        chat=chat_request(
            "tiny",
            "hello",
            sampling=common_pb2.SamplingParams(max_tokens=40, seed=5, top_logprobs=3, ignore_eos=True),
        ),
        resumable=True,
    )
    whole = list(client.stream_chat(request))
    for k in (1, 7, 20):
        again = chat_pb2.StreamChatRequest()
        again.CopyFrom(request)
        again.resumption.CopyFrom(whole[0].resumption)
        known = again.resumption.choices.add(index=0)
        read = whole[:k]
        while read and not read[-1].choice.token_ids:
            read.pop()
        for piece in read:
            known.token_ids.extend(piece.choice.token_ids)
        rest = list(client.stream_chat(again))
        assert rest[0].id == whole[0].id
        for field in ("content", "reasoning"):
            texts = ["".join(getattr(each.choice, field) for each in part) for part in (read + rest, whole)]
            assert texts[0] == texts[1]
        assert [e for p in read + rest for e in p.choice.logprobs] == [
            e for p in whole for e in p.choice.logprobs
        ]
        assert rest[-1].usage.completion_tokens == whole[-1].usage.completion_tokens
