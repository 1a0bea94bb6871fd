"""The gate before every HTTP route: request id, API key, and every error in OpenAI's form."""

from __future__ import annotations

import logging
import time
from contextlib import nullcontext

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gptoss_ray.json_logs import set_client_request_id
from gptoss_ray.serving.auth import ApiKeys
from gptoss_ray.serving.limits import check_media_type
from gptoss_ray.serving.request_id import REQUEST_ID_HEADER, request_id
from gptoss_ray.serving.status_codes import as_client_error, error_object, http_headers, status_of
from gptoss_ray.tracing import TRACEPARENT, Attribute, Span, Tracer, set_current_traceparent

logger = logging.getLogger(__name__)


class HttpGate:
    """ASGI middleware; a route finds `request_id` and `tenant` in `request.state`.

    `public_paths` open without a key; below a route prefix they begin behind it.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        api_keys: ApiKeys,
        public_paths: frozenset[str],
        echo_request_id: bool,
        tracer: Tracer | None = None,
    ) -> None:
        self._app = app
        self._api_keys = api_keys
        self._public_paths = public_paths
        self._echo_request_id = echo_request_id
        self._tracer = tracer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let the server's own start and stop events through, HTTP after the checks, and nothing else."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            await self._http(scope, receive, send)
        else:
            await send({"type": "websocket.close", "code": 1008})

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope)
        id_ = request_id(headers.get(REQUEST_ID_HEADER))
        status = 0
        start_s = time.monotonic()
        set_client_request_id(id_)
        is_public = _route_path(scope) in self._public_paths
        span = None if is_public else self._start_span(scope["method"], headers, id_)

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                if self._echo_request_id:
                    MutableHeaders(scope=message)[REQUEST_ID_HEADER] = id_
            await send(message)

        tenant = ""
        try:
            with nullcontext("") if is_public else self._api_keys.admitted(headers) as tenant:
                if not is_public:
                    check_media_type(headers.get("content-type"))
                scope["state"] = {**scope.get("state", {}), "request_id": id_, "tenant": tenant}
                await self._app(scope, receive, send_with_id)
        except Exception as error:
            shown = as_client_error(error, id_)
            response = JSONResponse(error_object(shown), status_of(shown).http, http_headers(shown))
            # Behind the start of an answer there is no place for another.
            if not status:
                await response(scope, receive, send_with_id)
        finally:
            if span is not None:
                _end_span(span, scope, status)
            logger.info(
                "event=http_request request_id=%s key=%s method=%s path=%r status=%d duration_s=%.3f",
                id_,
                self._api_keys.name(tenant),
                scope["method"],
                scope["path"],
                status,
                time.monotonic() - start_s,
            )

    def _start_span(self, method: str, headers: Headers, id_: str) -> Span | None:
        """Begin the request's span, below that of the caller; what this task does belongs to it."""
        if self._tracer is None:
            return None
        span = self._tracer.start(
            method,
            headers.get(TRACEPARENT, ""),
            {"http.request.method": method, "gptoss.request_id": id_},
            is_server=True,
        )
        set_current_traceparent(span.traceparent)
        return span


def _end_span(span: Span, scope: Scope, status: int) -> None:
    """Name it by its route, which has no ids in it and is known by now."""
    path = getattr(scope.get("route"), "path", None)
    attributes: dict[str, Attribute] = {"http.response.status_code": status}
    if path is not None:
        attributes["http.route"] = path
        span.rename(f"{scope['method']} {path}")
    # Without a status its client left before there was one.
    error = str(status) if status >= 500 else "" if status else "cancelled"
    span.end(attributes, error=error)


def _route_path(scope: Scope) -> str:
    """Return the path as the router reads it: behind the prefix under which the app is mounted."""
    path: str = scope["path"]
    return path.removeprefix(scope.get("root_path", ""))
