"""What stands around every gRPC method: request id, API key, size limit, and errors as statuses.

Serve sends an uncaught exception to the client as INTERNAL with its traceback, so nothing may escape a
method but `RpcFailedError`, raised once code and details are set on the context.
"""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import aclosing, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Protocol, TypeVar

import grpc
from google.protobuf.message import Message

from gptoss_ray.config import LimitsConfig
from gptoss_ray.json_logs import set_client_request_id
from gptoss_ray.serving.auth import PUBLIC_RPCS, ApiKeys
from gptoss_ray.serving.grpc_status import STATUS_DETAILS_KEY, status_details
from gptoss_ray.serving.limits import body_too_large
from gptoss_ray.serving.request_id import REQUEST_ID_HEADER, request_id
from gptoss_ray.serving.status_codes import as_client_error, grpc_details, status_of
from gptoss_ray.serving.stream_pacing import wait_for_reader
from gptoss_ray.tracing import TRACEPARENT, Span, Tracer, set_current_traceparent

logger = logging.getLogger(__name__)

_FAULTS = (
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.UNKNOWN,
)
"""Ends of a call that are an error of its span."""

Metadata = Sequence[tuple[str, str | bytes]]


class GrpcContext(Protocol):
    """The part of a gRPC servicer context that Serve carries to a replica."""

    def invocation_metadata(self) -> Iterable[tuple[str, str]]:
        """Return the caller's metadata: keys in lower case, values."""
        ...

    def set_code(self, code: grpc.StatusCode) -> None:
        """Set the status code."""
        ...

    def set_details(self, details: str) -> None:
        """Set the status message."""
        ...

    def set_trailing_metadata(self, trailing_metadata: list[tuple[str, str]]) -> None:
        """Set what the call tells at its end."""
        ...


class GuardedService(Protocol):
    """What the guard needs of a service."""

    api_keys: ApiKeys
    limits: LimitsConfig
    tracer: Tracer | None


class RpcFailedError(Exception):
    """Ends a method whose status is set already.

    Serve drops the context's trailing metadata where a method fails: they travel in here
    (`grpc_error_details.py`).
    """

    def __init__(self, details: str, trailing_metadata: Metadata = ()) -> None:
        super().__init__(details, trailing_metadata)
        self.trailing_metadata = trailing_metadata

    def __str__(self) -> str:
        """Return the status message."""
        return str(self.args[0])


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls: the tenant of the key, and the id of the request."""

    tenant: str
    request_id: str


ServiceT = TypeVar("ServiceT", bound=GuardedService)
RequestT = TypeVar("RequestT", bound=Message)
ResponseT = TypeVar("ResponseT", bound=Message)


def unary(
    method: Callable[[ServiceT, RequestT, Caller], Awaitable[ResponseT]],
) -> Callable[[ServiceT, RequestT, GrpcContext], Awaitable[ResponseT]]:
    """Turn `method(self, request, caller)` into a guarded gRPC method with one response."""

    async def guarded(self: ServiceT, request: RequestT, grpc_context: GrpcContext) -> ResponseT:
        with _guarded(self, method.__name__, request, grpc_context) as caller:
            return await method(self, request, caller)

    # Not functools.wraps: Serve must see the parameter named grpc_context, or it passes no context.
    guarded.__name__, guarded.__doc__ = method.__name__, method.__doc__
    return guarded


def streaming(
    method: Callable[[ServiceT, RequestT, Caller], AsyncGenerator[ResponseT, None]],
) -> Callable[[ServiceT, RequestT, GrpcContext], AsyncGenerator[ResponseT, None]]:
    """Turn `method(self, request, caller)` into a guarded gRPC method with a stream of responses."""

    async def guarded(
        self: ServiceT, request: RequestT, grpc_context: GrpcContext
    ) -> AsyncGenerator[ResponseT, None]:
        with _guarded(self, method.__name__, request, grpc_context) as caller:
            async with aclosing(method(self, request, caller)) as responses:
                async for response in responses:
                    await wait_for_reader()
                    yield response

    # Not functools.wraps: Serve must see the parameter named grpc_context, or it passes no context.
    guarded.__name__, guarded.__doc__ = method.__name__, method.__doc__
    return guarded


@contextmanager
def _guarded(service: GuardedService, name: str, request: Message, context: GrpcContext) -> Iterator[Caller]:
    """Let a call in, log it and turn what fails in it into a status; yields who calls."""
    metadata = dict(context.invocation_metadata())
    id_ = request_id(metadata.get(REQUEST_ID_HEADER))
    set_client_request_id(id_)
    start_s = time.monotonic()
    span = None if name in PUBLIC_RPCS else _start_span(service.tracer, name, metadata, id_)
    code = grpc.StatusCode.CANCELLED
    context.set_trailing_metadata([(REQUEST_ID_HEADER, id_)])
    try:
        with _admitted(service, name, request, metadata) as tenant:
            yield Caller(tenant, id_)
        code = grpc.StatusCode.OK
    except Exception as error:
        shown = as_client_error(error, id_)
        code, text = status_of(shown).grpc, grpc_details(shown)
        context.set_code(code)
        context.set_details(text)
        details = status_details(shown, id_, type(request))
        raise RpcFailedError(text, ((REQUEST_ID_HEADER, id_), (STATUS_DETAILS_KEY, details))) from None
    finally:
        if span is not None:
            is_fault = code in _FAULTS
            span.end({"rpc.grpc.status_code": code.value[0]}, error=code.name if is_fault else "")
        logger.info(
            "event=grpc_request request_id=%s method=%s code=%s duration_s=%.3f",
            *(id_, name, code.name, time.monotonic() - start_s),
        )


def _start_span(tracer: Tracer | None, name: str, metadata: dict[str, str], id_: str) -> Span | None:
    """Begin the call's span, below that of the caller; what this task does belongs to it."""
    if tracer is None:
        return None
    attributes = {"rpc.system": "grpc", "rpc.method": name, "gptoss.request_id": id_}
    span = tracer.start(name, metadata.get(TRACEPARENT, ""), attributes, is_server=True)
    set_current_traceparent(span.traceparent)
    return span


@contextmanager
def _admitted(
    service: GuardedService, name: str, request: Message, metadata: dict[str, str]
) -> Iterator[str]:
    """Let a call in and yield its tenant; raise RequestTooLargeError, or as `ApiKeys.admitted` does."""
    is_public = name in PUBLIC_RPCS
    with nullcontext("") if is_public else service.api_keys.admitted(metadata) as tenant:
        if request.ByteSize() > service.limits.max_body_bytes:
            raise body_too_large(service.limits.max_body_bytes)
        yield tenant
