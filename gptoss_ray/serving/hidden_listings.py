"""The one place that takes Ray Serve's own listings of applications off its proxies.

Serve 2.60 answers `GET /-/routes` and `ray.serve.RayServeAPIService/ListApplications` in the proxy,
which knows no API key, to whoever asks. Without the listing an HTTP request goes where all others go, to
the ingress, which asks for the key and knows no such route. Health (`/-/healthz`, `Healthz`) stays.

Behind HAProxy a replica of the ingress answers `/-/routes`, in front of our application. HAProxy's own answer
is taken out of its configuration (`haproxy.py`); it has the last Python proxy list the applications.
"""

from __future__ import annotations

import importlib
from collections.abc import AsyncGenerator
from typing import Any

import grpc

_ROUTES = "/-/routes"


def hide_listings() -> None:
    """Make this proxy list no applications."""
    requests: Any = importlib.import_module("ray.serve._private.proxy_request_response")
    requests.ASGIProxyRequest.is_route_request = property(lambda _: False)
    status: Any = requests.ResponseStatus

    async def refuse(_proxy: Any, *, healthy: bool, message: str) -> AsyncGenerator[Any, None]:  # noqa: ARG001
        yield status(code=grpc.StatusCode.UNIMPLEMENTED, message="not offered here", is_error=True)

    importlib.import_module("ray.serve._private.proxy").gRPCProxy.routes_response = refuse
    _hide_from_replicas()


def _hide_from_replicas() -> None:
    """Have an ingress replica behind HAProxy see a path that Serve does not know."""
    replica: Any = importlib.import_module("ray.serve._private.replica").Replica
    answer = replica._direct_ingress_asgi

    async def answer_unlisted(self: Any, scope: Any, receive: Any, send: Any) -> None:
        if scope.get("path") == _ROUTES:
            scope = {**scope, "path": f"{_ROUTES}/"}
        await answer(self, scope, receive, send)

    replica._direct_ingress_asgi = answer_unlisted
