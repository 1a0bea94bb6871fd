"""The Python client over streams that break: what its reader sees is the unbroken stream, bit for bit."""

from __future__ import annotations

import asyncio
import contextlib

import grpc
import pytest

from gptoss_ray.client import AsyncClient, Client, RetryPolicy, chat_request, generate_request
from gptoss_ray.engine.engine import Engine
from gptoss_ray.errors import InvalidRequestError, OverloadedError, UnavailableError
from gptoss_ray.protos.gptoss.v1 import chat_pb2, common_pb2, generation_pb2
from gptoss_ray.serving import grpc_service
from gptoss_ray.structured.grammar_compiler import GrammarCompiler
from tests.api.test_client import grpc_server_thread
from tests.support.engine_runs import small_config
from tests.support.engine_source import EngineSource
from tests.support.fake_transformer import FakeConfig, FakeTransformer
from tests.support.ingresses import (
    ANSWER,
    CALL,
    MAX_CONTEXT,
    MODEL,
    encoding,
    grpc_server,
    make_ingress,
    tokens,
)
from tests.support.scripted_source import ScriptedSource

AT_ONCE = RetryPolicy(max_attempts=3, first_backoff_s=0.001, max_backoff_s=0.001)
NEVER = RetryPolicy(max_attempts=1, resumes=False)
LIKES_TO_END = {encoding().end: 9.5, encoding().call: 9.5}
CITY = '{"type":"object","properties":{"city":{"type":"string"}},"required":["city"]}'
WEATHER = chat_pb2.Tool(name="weather", parameters_json=CITY)


def sampling(**fields):
    return common_pb2.SamplingParams(**fields)


def cut_streams(monkeypatch, num_pieces):
    """Have every stream break behind so many pieces; returns the count of breaks."""
    breaks = [0]

    class Cut:
        def __init__(self, make, *args, **options):
            self._piece = make(*args, **options)
            self._left = num_pieces

        def __call__(self, event):
            if not self._left:
                breaks[0] += 1
                raise LOST
            self._left -= 1
            return self._piece(event)

    for name in ("ChatPieces", "GenerationPieces"):
        make = getattr(grpc_service, name)
        monkeypatch.setattr(
            grpc_service, name, lambda *args, make=make, **options: Cut(make, *args, **options)
        )
    return breaks


class QuickError(UnavailableError):
    """A loss that the server does not ask to wait for."""


LOST = QuickError("lost")


@pytest.fixture(autouse=True)
def no_wait_is_asked_for(monkeypatch):
    monkeypatch.setattr("gptoss_ray.serving.grpc_status.RETRY_UNAVAILABLE_S", 0.0)


def engine_source():
    shape = FakeConfig(vocab_size=encoding().vocab_size, max_context=MAX_CONTEXT)
    compiler = GrammarCompiler(encoding(), encoding().vocab_size)
    return EngineSource(Engine(FakeTransformer(shape), small_config(), compile_grammar=compiler.compile))


def put_together(pieces):
    """Return what the pieces of a stream say, by choice, and the usage at its end."""
    choices = {}
    for piece in pieces:
        if not piece.HasField("choice"):
            continue
        delta = piece.choice
        choice = choices.setdefault(delta.index, {"text": "", "calls": {}, "logprobs": [], "ids": []})
        choice["text"] += (
            getattr(delta, "text", "") or f"{delta.reasoning}|{delta.content}"
            if (isinstance(delta, chat_pb2.ChatChoiceDelta))
            else delta.text
        )
        choice["ids"] += delta.token_ids
        choice["logprobs"] += [entry.SerializeToString() for entry in delta.logprobs]
        choice["end"] = delta.finish_reason
        if isinstance(delta, chat_pb2.ChatChoiceDelta) and delta.HasField("tool_call"):
            call = choice["calls"].setdefault(delta.tool_call.index, ["", "", ""])
            for part, text in enumerate(
                (delta.tool_call.id, delta.tool_call.name, delta.tool_call.arguments_json)
            ):
                call[part] += text
    usage = pieces[-1].usage
    return choices, (usage.prompt_tokens, usage.completion_tokens, usage.reasoning_tokens)


def without_separators(choices):
    return {index: {**choice, "text": choice["text"].replace("|", "")} for index, choice in choices.items()}


def same(left, right):
    """Call ids hang on the answer's id, which differs between two answers."""
    for choices in (left, right):
        for choice in choices.values():
            choice["calls"] = {index: call[1:] for index, call in choice["calls"].items()}
    return without_separators(left) == without_separators(right)


CASES = {
    "a scripted answer": (lambda: ScriptedSource(tokens(ANSWER)), chat_request(MODEL, "x")),
    "a scripted call": (
        lambda: ScriptedSource(tokens(CALL)),
        chat_request(MODEL, "x", tools=[chat_pb2.Tool(name="weather")]),
    ),
    "several choices with log probabilities and a stop string": (
        lambda: ScriptedSource(tokens(ANSWER)),
        chat_request(MODEL, "x", sampling=sampling(n=3, top_logprobs=2, stop=["42"])),
    ),
    "a completion": (
        lambda: ScriptedSource(tokens("One 🎈 two abcabd x")),
        generate_request(MODEL, "x", sampling=sampling(top_logprobs=1, stop=["abcabe"], max_tokens=30)),
    ),
    "an engine, greedy": (
        engine_source,
        generate_request(MODEL, "x", sampling=sampling(temperature=0, max_tokens=24, top_logprobs=2)),
    ),
    "an engine, sampled, penalised": (
        engine_source,
        generate_request(
            MODEL,
            ["x", "y"],
            sampling=sampling(
                seed=5, n=2, max_tokens=16, frequency_penalty=1.5, repetition_penalty=1.3, top_logprobs=1
            ),
        ),
    ),
    "an engine in a chat": (
        engine_source,
        chat_request(MODEL, "x", sampling=sampling(seed=7, max_tokens=40, top_logprobs=2)),
    ),
    "an engine under a schema": (
        engine_source,
        chat_request(
            MODEL,
            "x",
            response_format=common_pb2.ResponseFormat(
                json_schema=common_pb2.JsonSchema(name="city", schema_json=CITY)
            ),
            sampling=sampling(seed=3, logit_bias=LIKES_TO_END, top_logprobs=1),
        ),
    ),
    "an engine that must call": (
        engine_source,
        chat_request(
            MODEL,
            "x",
            tools=[WEATHER],
            tool_choice=chat_pb2.TOOL_CHOICE_REQUIRED,
            sampling=sampling(seed=2, logit_bias=LIKES_TO_END),
        ),
    ),
}


async def read(client, request):
    is_chat = isinstance(request, chat_pb2.ChatRequest | chat_pb2.StreamChatRequest)
    stream = client.stream_chat(request) if is_chat else client.stream_generate(request)
    return [piece async for piece in stream]


def with_tokens(request):
    """Ask for tokens in an unbroken stream, so that they can be compared."""
    if isinstance(request, chat_pb2.ChatRequest):
        return chat_pb2.StreamChatRequest(chat=request, resumable=True)
    return generation_pb2.StreamGenerateRequest(generation=request, resumable=True)


@pytest.mark.parametrize("num_pieces", [1, 2, 3, 7])
@pytest.mark.parametrize("case", CASES)
async def test_a_stream_that_breaks_every_few_pieces_reads_like_one_that_does_not(
    case, num_pieces, monkeypatch
):
    make_source, request = CASES[case]
    async with grpc_server(make_ingress(make_source())) as target, AsyncClient(target, retry=NEVER) as client:
        whole = await read(client, with_tokens(request))
    # An output may make several pieces, the last of which has its tokens: so many always get through.
    breaks = cut_streams(monkeypatch, num_pieces + 4)
    source = make_source()
    async with grpc_server(make_ingress(source)) as target, AsyncClient(target, retry=AT_ONCE) as client:
        broken = await read(client, request)
    assert breaks[0] > 0
    assert len({piece.id for piece in broken}) == 1
    (choices, usage), (expected, expected_usage) = put_together(broken), put_together(whole)
    assert same(choices, expected)
    assert usage == expected_usage


async def test_without_resuming_a_stream_that_has_begun_is_not_tried_again(monkeypatch):
    cut_streams(monkeypatch, 3)
    source = ScriptedSource(tokens(ANSWER))
    policy = RetryPolicy(first_backoff_s=0.001, resumes=False)
    async with grpc_server(make_ingress(source)) as target, AsyncClient(target, retry=policy) as client:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await read(client, chat_request(MODEL, "x"))
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert len(source.requests) == 1


@pytest.mark.parametrize(
    ("error", "num_requests"),
    [
        (LOST, 3),
        (OverloadedError("full.", retry_after_s=0.001), 3),
        (InvalidRequestError("no.", param="n"), 1),
    ],
)
async def test_a_refused_call_is_tried_as_often_as_the_policy_says(error, num_requests):
    source = ScriptedSource([error])
    async with grpc_server(make_ingress(source)) as target, AsyncClient(target, retry=AT_ONCE) as client:
        for call in (client.chat(chat_request(MODEL, "x")), read(client, chat_request(MODEL, "x"))):
            with pytest.raises(grpc.aio.AioRpcError):
                await call
            assert len(source.requests) == num_requests
            source.requests.clear()


async def test_a_server_that_comes_back_is_found_again():
    calls = []

    def script(request):
        calls.append(request)
        return [LOST] if len(calls) < 3 else tokens(ANSWER)

    async with grpc_server(make_ingress(script)) as target, AsyncClient(target, retry=AT_ONCE) as client:
        answer = await client.chat(chat_request(MODEL, "x"))
    assert answer.choices[0].content == "It is 42."
    assert len(calls) == 3


def test_the_sync_client_resumes_too(monkeypatch):
    breaks = cut_streams(monkeypatch, 4)
    source = ScriptedSource(tokens(ANSWER))
    with (
        grpc_server_thread(make_ingress(source)) as target,
        Client(target, retry=AT_ONCE) as client,
    ):
        pieces = list(client.stream_chat(chat_request(MODEL, "x")))
        generated = list(client.stream_generate(generate_request(MODEL, "x")))
    assert "".join(piece.choice.content for piece in pieces) == "It is 42."
    assert "".join(piece.choice.reasoning for piece in pieces) == "17 and 25."
    assert generated[-1].usage.completion_tokens == 16
    assert breaks[0] > 4
    assert [request.emitted_token_ids for request in source.requests[:2]] != [(), ()]


async def test_a_connection_that_is_cut_in_the_middle_is_resumed():
    source = ScriptedSource(tokens(ANSWER))
    async with grpc_server(make_ingress(source)) as target, cutting_proxy(target, 700) as (proxy, cuts):
        options = [("grpc.min_reconnect_backoff_ms", 10), ("grpc.initial_reconnect_backoff_ms", 10)]
        async with AsyncClient(
            proxy, retry=RetryPolicy(max_attempts=9, first_backoff_s=0.02), options=options
        ) as client:
            pieces = await read(client, chat_request(MODEL, "x", sampling=sampling(top_logprobs=5)))
    assert "".join(piece.choice.content for piece in pieces) == "It is 42."
    logprobs = [entry.chosen.token for piece in pieces for entry in piece.choice.logprobs]
    assert b"".join(logprobs) == b"It is 42."
    assert cuts[0] > 1


@contextlib.asynccontextmanager
async def cutting_proxy(target, num_bytes):
    """Pass connections on to `target`; each is cut once so many bytes have come back."""
    host, _, port = target.partition(":")
    cuts = [0]
    connections = set()

    async def connect(reader, writer):
        connections.add(asyncio.current_task())
        upstream_reader, upstream_writer = await asyncio.open_connection(host, int(port))

        async def forward():
            while data := await reader.read(4096):
                upstream_writer.write(data)

        forwarding = asyncio.create_task(forward())
        left = num_bytes
        try:
            while data := await upstream_reader.read(min(256, left)):
                writer.write(data)
                await writer.drain()
                left -= len(data)
                if left <= 0:
                    cuts[0] += 1
                    break
        finally:
            forwarding.cancel()
            for each in (writer, upstream_writer):
                each.transport.abort()
            await asyncio.gather(
                forwarding, writer.wait_closed(), upstream_writer.wait_closed(), return_exceptions=True
            )

    server = await asyncio.start_server(connect, "127.0.0.1", 0)
    try:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}", cuts
    finally:
        server.close()
        for connection in connections:
            connection.cancel()
        # A socket still open when the loop ends would be a failure of the next test.
        await asyncio.gather(*connections, return_exceptions=True)
