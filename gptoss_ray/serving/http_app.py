"""The HTTP routes: OpenAI's chat, completions and models, health, metrics, and the pages."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable, Mapping
from contextlib import aclosing
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, TypeVar

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from gptoss_ray.errors import GptossError, InvalidRequestError, NotFoundError, UnavailableError
from gptoss_ray.serving.answer import Answer, Usage
from gptoss_ray.serving.auth import PUBLIC_PATHS
from gptoss_ray.serving.dashboard_state import DashboardState, dashboard_state
from gptoss_ray.serving.exposition import CONTENT_TYPE, IngressFamilies, exposition
from gptoss_ray.serving.group_metrics import Replicas, group_families
from gptoss_ray.serving.http_body import parse_body
from gptoss_ray.serving.http_gate import HttpGate
from gptoss_ray.serving.models import ServedModel
from gptoss_ray.serving.openai_answers import (
    AbortedRequest,
    ChatCompletion,
    ChatCompletionChunk,
    Health,
    ModelList,
    ModelObject,
    TextCompletion,
    Version,
)
from gptoss_ray.serving.openai_json import (
    ChunkWriter,
    chat_chunks,
    chat_completion,
    completion_chunks,
    resumption_field,
    text_completion,
    usage_field,
)
from gptoss_ray.serving.openai_types import (
    ChatCompletionRequest,
    CompletionRequest,
    RequestT,
    SamplingFields,
)
from gptoss_ray.serving.openapi import Route, openapi_document
from gptoss_ray.serving.pages import Pages
from gptoss_ray.serving.responses.http_routes import ResponseRoutes
from gptoss_ray.serving.sse import EventStreamResponse, cancel_on_disconnect
from gptoss_ray.serving.status_codes import error_object
from gptoss_ray.serving.tokenization import (
    Detokenized,
    DetokenizeRequest,
    Tokenized,
    TokenizeRequest,
    TokenizerInfo,
    detokenize,
    tokenize,
    tokenizer_info,
)

if TYPE_CHECKING:
    from gptoss_ray.serving.ingress import Ingress

DeltaT = TypeVar("DeltaT")


def build_fastapi_app(ingress: Ingress, *, echo_request_id: bool = True) -> FastAPI:
    """Return the HTTP side of an ingress; without the echo where a proxy in front does it."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False)
    page = Pages.load() if ingress.has_page else Pages(())
    app.add_middleware(
        HttpGate,
        api_keys=ingress.api_keys,
        public_paths=PUBLIC_PATHS | page.paths,
        echo_request_id=echo_request_id,
        tracer=ingress.tracer,
    )
    app.add_exception_handler(HTTPException, _route_error)
    handlers = _Handlers(ingress)
    for route in handlers.routes:
        app.add_api_route(route.path, route.handler, methods=list(route.methods))
    app.router.routes.extend(page.routes)
    return app


class _Handlers:
    """What answers each path."""

    def __init__(self, ingress: Ingress) -> None:
        self._ingress = ingress
        self.routes = (
            Route(
                ("POST",),
                "/v1/chat/completions",
                self.chat_completions,
                ChatCompletion,
                body=ChatCompletionRequest,
                event=ChatCompletionChunk,
            ),
            Route(
                ("POST",),
                "/v1/completions",
                self.completions,
                TextCompletion,
                body=CompletionRequest,
                event=TextCompletion,
            ),
            *ResponseRoutes(ingress.responses, ingress.limits).routes,
            Route(("GET",), "/v1/models", self.list_models, ModelList),
            Route(("GET",), "/v1/models/{name:path}", self.get_model, ModelObject),
            Route(("POST",), "/tokenize", self.tokenize, Tokenized, body=TokenizeRequest),
            Route(("POST",), "/detokenize", self.detokenize, Detokenized, body=DetokenizeRequest),
            Route(("GET",), "/tokenizer_info", self.tokenizer_info, TokenizerInfo),
            Route(("DELETE",), "/v1/requests/{request_id:path}", self.abort, AbortedRequest),
            Route(("GET",), "/live", self.live, Health),
            Route(("GET",), "/ready", self.ready, Health),
            Route(("GET",), "/health", self.ready, Health),
            Route(("GET", "POST"), "/ping", self.ready, Health),
            Route(("GET",), "/metrics", self.metrics),
            Route(("GET",), "/dashboard/state", self.dashboard_state, DashboardState),
            Route(("GET",), "/version", self.version, Version),
            Route(("GET",), "/openapi.json", self.openapi, dict[str, Any]),
        )
        self._openapi: dict[str, Any] | None = None

    async def chat_completions(self, request: Request) -> Response:
        """Answer a chat, as a whole or as events."""
        parsed = await self._parse(ChatCompletionRequest, request)
        state = request.state
        answer = await self._ingress.chat(parsed, tenant=state.tenant, request_id=state.request_id)
        return await _respond(request, parsed, answer, chat_chunks(answer), chat_completion)

    async def completions(self, request: Request) -> Response:
        """Continue a prompt, as a whole or as events."""
        parsed = await self._parse(CompletionRequest, request)
        state = request.state
        answer = await self._ingress.complete(parsed, tenant=state.tenant, request_id=state.request_id)
        return await _respond(request, parsed, answer, completion_chunks(answer), text_completion)

    async def _parse(self, kind: type[RequestT], request: Request) -> RequestT:
        return await parse_body(kind, request, self._ingress.limits.max_body_bytes)

    async def list_models(self) -> Response:
        """List the served models, each alias too."""
        models = [
            _model_object(name, model)
            for model in self._ingress.catalog
            for name in (model.name, *model.aliases)
        ]
        return JSONResponse(ModelList(object="list", data=models))

    async def get_model(self, name: str) -> Response:
        """Describe one model by its name or alias, in which `/` may stand."""
        return JSONResponse(_model_object(name, self._ingress.catalog.find(name)))

    async def abort(self, request: Request, request_id: str) -> Response:
        """End the caller's requests of an id, whichever protocol and ingress replica they came by."""
        num_aborted = await self._ingress.abort(request_id, tenant=request.state.tenant)
        return JSONResponse(AbortedRequest(id=request_id, object="request", num_aborted=num_aborted))

    async def ready(self) -> Response:
        """Tell whether a request sent now would be served."""
        if not await self._ingress.catalog.any_ready():
            raise UnavailableError("No model can serve now; it is loading or draining.")
        return JSONResponse(Health(status="ready"))

    async def live(self) -> Response:
        """Tell that the process answers."""
        return JSONResponse(Health(status="live"))

    async def version(self) -> Response:
        """Tell the version of the server."""
        return JSONResponse(Version(version=version("gptoss-ray")))

    async def openapi(self) -> Response:
        """Describe all of this."""
        if self._openapi is None:
            # Takes a second, and few ever ask: in a thread, when the first does.
            needs_key = self._ingress.api_keys.are_needed
            self._openapi = await asyncio.to_thread(openapi_document, self.routes, needs_key=needs_key)
        return JSONResponse(self._openapi)

    async def tokenize(self, request: Request) -> Response:
        """Turn a prompt, or a chat, into tokens."""
        parsed = await self._parse(TokenizeRequest, request)
        model = self._ingress.catalog.find(parsed.model)
        return JSONResponse(await tokenize(parsed, model, created=self._ingress.now()))

    async def detokenize(self, request: Request) -> Response:
        """Turn tokens into text."""
        parsed = await self._parse(DetokenizeRequest, request)
        return JSONResponse(await detokenize(parsed, self._ingress.catalog.find(parsed.model)))

    async def tokenizer_info(self) -> Response:
        """Tell the names of the first model's control tokens, as lm-eval asks for them."""
        return JSONResponse(tokenizer_info(self._ingress.catalog.find(None)))

    async def metrics(self) -> Response:
        """Tell what the ingress replicas have measured and the ranks report, in Prometheus's text format."""
        measured, replicas = await self._observe()
        text = exposition(measured, group_families(replicas))
        return Response(text, headers={"content-type": CONTENT_TYPE})

    async def dashboard_state(self) -> Response:
        """Tell what the dashboard shows: models, replicas, ranks, experts and events."""
        return JSONResponse(dashboard_state(*await self._observe(), time.time()))

    async def _observe(self) -> tuple[IngressFamilies, Replicas]:
        return await asyncio.gather(self._ingress.measured(), self._ingress.replicas())


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


def _model_object(name: str, model: ServedModel) -> ModelObject:
    return ModelObject(
        id=name,
        object="model",
        created=model.created,
        owned_by="gptoss_ray",
        root=model.name,
        parent=None,
        max_model_len=model.max_context,
    )


async def _respond(
    request: Request,
    parsed: SamplingFields,
    answer: Answer[DeltaT],
    write_chunk: ChunkWriter[DeltaT],
    encode_whole: Callable[[Answer[DeltaT], AsyncIterable[DeltaT | Usage]], Awaitable[Mapping[str, object]]],
) -> Response:
    """Send an answer as events or, put together from the same deltas, as a whole."""
    if parsed.stream:
        payloads = _chunks(answer, write_chunk, parsed)
        return EventStreamResponse(payloads, request_id=request.state.request_id)

    async def whole() -> Mapping[str, object]:
        async with aclosing(answer.events) as events:
            return await encode_whole(answer, events)

    return JSONResponse(await cancel_on_disconnect(request.receive, whole()))


async def _chunks(
    answer: Answer[DeltaT], write: ChunkWriter[DeltaT], parsed: SamplingFields
) -> AsyncGenerator[bytes, None]:
    """Yield a stream's chunks; where usage was asked for, the last one has it.

    The others have null then, or the usage so far where that was asked for, too.
    """
    no_usage = usage_field(None) if parsed.wants_usage_chunk else b""
    tells_usage = parsed.wants_usage_in_every_chunk
    resumption = resumption_field(answer.resumption)
    async with aclosing(answer.events) as events:
        async for event in events:
            if not isinstance(event, Usage):
                yield write((event,), (usage_field(answer.usage) if tells_usage else no_usage) + resumption)
                resumption = b""
            elif parsed.wants_usage_chunk:
                yield write((), usage_field(event) + resumption)
