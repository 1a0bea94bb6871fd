import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager

import grpc
import pytest

from gptoss_ray.client import Client, chat_request, generate_request
from gptoss_ray.serving.ingress import Ingress
from tests.support.ingresses import ANSWER, MODEL, encoding, grpc_server, make_ingress, tokens
from tests.support.scripted_source import Endless, ScriptedSource


@contextmanager
def grpc_server_thread(ingress: Ingress) -> Iterator[str]:
    """Serve the RPCs from a thread, because the client under test blocks its own."""
    started: Future[tuple[str, asyncio.AbstractEventLoop, asyncio.Event]] = Future()

    async def serve() -> None:
        async with grpc_server(ingress) as target:
            stop = asyncio.Event()
            started.set_result((target, asyncio.get_running_loop(), stop))
            await stop.wait()

    # `run` ends what calls have left running: their generators would complain of a closed loop later.
    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    target, loop, stop = started.result(timeout=60)
    try:
        yield target
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()


def test_the_sync_client_asks_streams_and_lists():
    with (
        grpc_server_thread(make_ingress(tokens(ANSWER), api_keys=["k"])) as target,
        Client(target, api_key="k") as client,
    ):
        request = chat_request(MODEL, "17 + 25?")
        assert client.chat(request, timeout_s=5).choices[0].content == "It is 42."
        assert "".join(piece.choice.content for piece in client.stream_chat(request)) == "It is 42."
        generation = generate_request(MODEL, encoding().encode("17"))
        whole = client.generate(generation).choices[0].text
        assert "".join(piece.choice.text for piece in client.stream_generate(generation)) == whole
        assert [model.name for model in client.list_models()] == [MODEL]


def test_closing_a_sync_stream_stops_the_request():
    source = ScriptedSource([*tokens("<|channel|>final<|message|>Count"), Endless()])
    with grpc_server_thread(make_ingress(source)) as target, Client(target) as client:
        pieces = client.stream_chat(chat_request(MODEL, "Count."))
        assert next(pieces).choice.content == "Count"
        pieces.close()
        asyncio.run(source.wait_until_closed())


def test_a_refused_call_tells_why():
    with grpc_server_thread(make_ingress([], api_keys=["k"])) as target, Client(target) as client:
        with pytest.raises(grpc.RpcError) as caught:
            client.list_models()
        assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
