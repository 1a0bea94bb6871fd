"""The HTTP routes: OpenAI's chat, completions and models, and health."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable
from contextlib import aclosing
from functools import partial
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, TypeVar

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from gptoss_ray.errors import GptossError, InvalidRequestError, NotFoundError, UnavailableError
from gptoss_ray.serving.answer import Answer, Usage
from gptoss_ray.serving.http_gate import HttpGate
from gptoss_ray.serving.limits import read_body
from gptoss_ray.serving.metrics import CONTENT_TYPE
from gptoss_ray.serving.models import ServedModel
from gptoss_ray.serving.openai_json import (
    ChatChunks,
    chat_completion,
    completion_chunk,
    text_completion,
    usage_object,
)
from gptoss_ray.serving.openai_types import (
    ChatCompletionRequest,
    CompletionRequest,
    SamplingFields,
    parse_json,
)
from gptoss_ray.serving.sse import EventStreamResponse, cancel_on_disconnect
from gptoss_ray.serving.status_codes import error_object

if TYPE_CHECKING:
    from gptoss_ray.serving.ingress import Ingress

DeltaT = TypeVar("DeltaT")


def build_fastapi_app(ingress: Ingress, *, echo_request_id: bool = True) -> FastAPI:
    """Return the HTTP side of an ingress; without the echo where a proxy in front does it."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False)
    app.add_middleware(HttpGate, api_keys=ingress.api_keys, echo_request_id=echo_request_id)
    app.add_exception_handler(HTTPException, _route_error)
    routes = _Routes(ingress)
    app.add_api_route("/v1/chat/completions", routes.chat_completions, methods=["POST"])
    app.add_api_route("/v1/completions", routes.completions, methods=["POST"])
    app.add_api_route("/v1/models", routes.list_models, methods=["GET"])
    app.add_api_route("/v1/models/{name:path}", routes.get_model, methods=["GET"])
    app.add_api_route("/version", _version, methods=["GET"])
    app.add_api_route("/live", _live, methods=["GET"])
    app.add_api_route("/ready", routes.ready, methods=["GET"])
    app.add_api_route("/health", routes.ready, methods=["GET"])
    app.add_api_route("/ping", routes.ready, methods=["GET", "POST"])
    app.add_api_route("/metrics", routes.metrics, methods=["GET"])
    return app


class _Routes:
    """The handlers that need the ingress."""

    def __init__(self, ingress: Ingress) -> None:
        self._ingress = ingress

    async def chat_completions(self, request: Request) -> Response:
        """Answer a chat, as a whole or as events."""
        parsed = parse_json(ChatCompletionRequest, await self._body(request))
        answer = await self._ingress.chat(parsed, tenant=request.state.tenant)
        return await _respond(request, parsed, answer, ChatChunks(answer), chat_completion)

    async def completions(self, request: Request) -> Response:
        """Continue a prompt, as a whole or as events."""
        parsed = parse_json(CompletionRequest, await self._body(request))
        answer = await self._ingress.complete(parsed, tenant=request.state.tenant)
        return await _respond(request, parsed, answer, partial(completion_chunk, answer), text_completion)

    async def _body(self, request: Request) -> bytes:
        return await read_body(request.receive, self._ingress.limits.max_body_bytes)

    async def list_models(self) -> Response:
        """List the served models, each alias too."""
        models = [
            _model_object(name, model)
            for model in self._ingress.catalog
            for name in (model.name, *model.aliases)
        ]
        return JSONResponse({"object": "list", "data": models})

    async def get_model(self, name: str) -> Response:
        """Describe one model by its name or alias, in which `/` may stand."""
        return JSONResponse(_model_object(name, self._ingress.catalog.find(name)))

    async def ready(self) -> Response:
        """Tell whether a request sent now would be served."""
        if not await self._ingress.catalog.any_ready():
            raise UnavailableError("No model can serve now; it is loading or draining.")
        return JSONResponse({"status": "ready"})

    async def metrics(self) -> Response:
        """Tell what this ingress replica has measured, in Prometheus's text format."""
        return Response(self._ingress.metrics.exposition(), headers={"content-type": CONTENT_TYPE})


async def _live() -> Response:
    """Tell that the process answers."""
    return JSONResponse({"status": "live"})


async def _version() -> Response:
    """Tell the version of the server."""
    return JSONResponse({"version": version("gptoss-ray")})


def _route_error(request: Request, error: Exception) -> Response:
    """Turn the router's own errors, no such route or method, into OpenAI's form."""
    assert isinstance(error, HTTPException)
    what = f"{request.method} {request.url.path}"
    is_method = error.status_code == 405
    wrong: GptossError = (
        InvalidRequestError(f"{what}: the method is not allowed here.", code="method_not_allowed")
        if is_method
        else NotFoundError(f"{what}: no such route.")
    )
    return JSONResponse(error_object(wrong), error.status_code, error.headers)


def _model_object(name: str, model: ServedModel) -> dict[str, Any]:
    return {
        "id": name,
        "object": "model",
        "created": model.created,
        "owned_by": "gptoss_ray",
        "root": model.name,
        "parent": None,
        "max_model_len": model.max_context,
    }


async def _respond(
    request: Request,
    parsed: SamplingFields,
    answer: Answer[DeltaT],
    encode_chunk: Callable[[DeltaT | Usage], dict[str, Any]],
    encode_whole: Callable[[Answer[DeltaT], AsyncIterable[DeltaT | Usage]], Awaitable[dict[str, Any]]],
) -> Response:
    """Send an answer as events or, put together from the same deltas, as a whole."""
    if parsed.stream:
        payloads = _chunks(answer, encode_chunk, parsed)
        return EventStreamResponse(payloads, request_id=request.state.request_id)

    async def whole() -> dict[str, Any]:
        async with aclosing(answer.events) as events:
            return await encode_whole(answer, events)

    return JSONResponse(await cancel_on_disconnect(request.receive, whole()))


async def _chunks(
    answer: Answer[DeltaT], encode: Callable[[DeltaT | Usage], dict[str, Any]], parsed: SamplingFields
) -> AsyncGenerator[dict[str, Any], None]:
    """Yield a stream's chunks; where usage was asked for, the last one has it.

    The others have null then, or the usage so far where that was asked for, too.
    """
    async with aclosing(answer.events) as events:
        async for event in events:
            if not isinstance(event, Usage):
                usage = usage_object(answer.usage) if parsed.wants_usage_in_every_chunk else None
                yield {**encode(event), "usage": usage} if parsed.wants_usage_chunk else encode(event)
            elif parsed.wants_usage_chunk:
                yield encode(event)
