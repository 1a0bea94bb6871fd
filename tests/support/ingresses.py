"""Ingresses over scripted tokens, reached as clients reach them: in memory and on loopback."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import cache
from importlib import import_module
from typing import Any

import grpc
import httpx
import uvicorn
from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.types import ASGIApp

from gptoss_ray.harmony.encoding import HarmonyEncoding
from gptoss_ray.harmony.vocabulary import SHIPPED_FILE, control_tokens, shipped_ranks
from gptoss_ray.serving.grpc_rpc import RpcFailedError
from gptoss_ray.serving.ingress import GRPC_SERVICER_FUNCTIONS, Ingress, build_fastapi_app
from gptoss_ray.serving.models import ServedModel
from gptoss_ray.serving.request_heads import BoundedHttpProtocol
from gptoss_ray.serving.token_source import TokenSource
from tests.support.scripted_source import Script, ScriptedSource

MODEL = "org/tiny"
ALIAS = "tiny"
NUM_RANKS = 4000
MAX_CONTEXT = 600
NOW = 1_750_000_000  # 2025-06-15


@cache
def encoding() -> HarmonyEncoding:
    """A small vocabulary, whose control tokens lie elsewhere than o200k's."""
    ranks = {token: rank for token, rank in shipped_ranks().items() if rank < NUM_RANKS}
    return HarmonyEncoding(ranks, control_tokens(NUM_RANKS, NUM_RANKS + 30), source=SHIPPED_FILE)


def tokens(markup: str) -> list[tuple[int, ...]]:
    """Return a harmony output as an engine's steps, a token each."""
    return [(token_id,) for token_id in encoding().encode_with_special(markup)]


ANSWER = (
    "<|channel|>analysis<|message|>17 and 25.<|end|>"
    "<|start|>assistant<|channel|>final<|message|>It is 42.<|return|>"
)
CALL = (
    "<|channel|>analysis<|message|>Look it up.<|end|>"
    "<|start|>assistant<|channel|>commentary<|message|>One moment.<|end|>"
    "<|start|>assistant<|channel|>commentary to=functions.weather <|constrain|>json<|message|>"
    '{"city":"Bern"}<|call|>'
)
FORMED = (
    "<|channel|>analysis<|message|>A city.<|end|>"
    '<|start|>assistant<|channel|>final <|constrain|>json<|message|>{"city":"Bern"}<|return|>'
)


def make_ingress(source: TokenSource | Script, **options: Any) -> Ingress:
    """Return an ingress of one model over a script, or over another source of tokens."""
    if not hasattr(source, "generate"):
        source = ScriptedSource(source)
    model = ServedModel(
        name=MODEL,
        encoding=encoding(),
        max_context=MAX_CONTEXT,
        vocab_size=encoding().vocab_size,
        token_source=source,
        aliases=(ALIAS,),
        created=NOW,
    )
    return Ingress([model], clock=lambda: NOW, **options)


def http_client(ingress: Ingress, **options: Any) -> httpx.AsyncClient:
    """Return a client that calls the app in this process."""
    transport = httpx.ASGITransport(app=build_fastapi_app(ingress))
    return httpx.AsyncClient(transport=transport, base_url="http://testserver", **options)


@contextmanager
def http_server(ingress: Ingress, prefix: str = "") -> Iterator[str]:
    """Serve the app on loopback in a thread of its own, below a route prefix; yield its base URL."""
    app: ASGIApp = build_fastapi_app(ingress)
    if prefix:  # A mount finds no path with a line feed in it.
        app = Starlette(routes=[Mount(prefix, app)])
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen()  # A client may be faster than the thread.
    config = uvicorn.Config(app, http=BoundedHttpProtocol, log_config=None, lifespan="off")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=asyncio.run, args=(server.serve([listener]),))
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}{prefix}"
    finally:
        server.should_exit = True
        thread.join()
        listener.close()


class _StatusText(grpc.aio.ServerInterceptor):
    """Ends a failed call with the status text as it is, as Serve does; plain grpc puts words around it."""

    async def intercept_service(self, continuation: Any, details: grpc.HandlerCallDetails) -> Any:
        handler = await continuation(details)
        if handler.unary_unary:
            return handler._replace(unary_unary=_aborting_unary(handler.unary_unary))
        return handler._replace(unary_stream=_aborting_stream(handler.unary_stream))


def _aborting_unary(method: Any) -> Any:
    async def call(request: Any, context: Any) -> Any:
        try:
            return await method(request, context)
        except RpcFailedError as error:
            await _abort(context, error)

    return call


def _aborting_stream(method: Any) -> Any:
    async def call(request: Any, context: Any) -> AsyncIterator[Any]:
        try:
            async for response in method(request, context):
                yield response
        except RpcFailedError as error:
            await _abort(context, error)

    return call


async def _abort(context: Any, error: RpcFailedError) -> None:
    await context.abort(context.code(), context.details(), error.trailing_metadata)


@asynccontextmanager
async def grpc_server(ingress: Ingress) -> AsyncIterator[str]:
    """Serve all RPCs on loopback; yield host:port."""
    server = grpc.aio.server(interceptors=[_StatusText()])
    for path in GRPC_SERVICER_FUNCTIONS:
        module, _, function = path.rpartition(".")
        getattr(import_module(module), function)(ingress, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(None)
