"""What stands around every gRPC method: the API key, the size limit, and errors as statuses.

Serve sends an uncaught exception to the client as INTERNAL with its traceback, so nothing may escape a
method but `RpcFailedError`, raised once code and details are set on the context.
"""

from __future__ import annotations

import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Iterator
from contextlib import aclosing, contextmanager, nullcontext
from typing import Protocol, TypeVar

import grpc
from google.protobuf.message import Message

from gptoss_ray.config import LimitsConfig
from gptoss_ray.serving.auth import PUBLIC_RPCS, ApiKeys
from gptoss_ray.serving.limits import body_too_large
from gptoss_ray.serving.status_codes import as_client_error, grpc_details, status_of


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


class GuardedService(Protocol):
    """What the guard needs of a service."""

    api_keys: ApiKeys
    limits: LimitsConfig


class RpcFailedError(Exception):
    """Ends a method whose status is set already; the text is the status message."""


ServiceT = TypeVar("ServiceT", bound=GuardedService)
RequestT = TypeVar("RequestT", bound=Message)
ResponseT = TypeVar("ResponseT", bound=Message)


def unary(
    method: Callable[[ServiceT, RequestT, str], Awaitable[ResponseT]],
) -> Callable[[ServiceT, RequestT, GrpcContext], Awaitable[ResponseT]]:
    """Turn `method(self, request, tenant)` into a guarded gRPC method with one response."""

    async def guarded(self: ServiceT, request: RequestT, grpc_context: GrpcContext) -> ResponseT:
        with (
            _errors_as_status(grpc_context),
            _admitted(self, method.__name__, request, grpc_context) as tenant,
        ):
            return await method(self, request, tenant)

    # Not functools.wraps: Serve must see the parameter named grpc_context, or it passes no context.
    guarded.__name__, guarded.__doc__ = method.__name__, method.__doc__
    return guarded


def streaming(
    method: Callable[[ServiceT, RequestT, str], AsyncGenerator[ResponseT, None]],
) -> Callable[[ServiceT, RequestT, GrpcContext], AsyncGenerator[ResponseT, None]]:
    """Turn `method(self, request, tenant)` into a guarded gRPC method with a stream of responses."""

    async def guarded(
        self: ServiceT, request: RequestT, grpc_context: GrpcContext
    ) -> AsyncGenerator[ResponseT, None]:
        with (
            _errors_as_status(grpc_context),
            _admitted(self, method.__name__, request, grpc_context) as tenant,
        ):
            async with aclosing(method(self, request, tenant)) as responses:
                async for response in responses:
                    yield response

    # Not functools.wraps: Serve must see the parameter named grpc_context, or it passes no context.
    guarded.__name__, guarded.__doc__ = method.__name__, method.__doc__
    return guarded


@contextmanager
def _admitted(service: GuardedService, name: str, request: Message, context: GrpcContext) -> Iterator[str]:
    """Let a call in and yield its tenant; raise RequestTooLargeError, or as `ApiKeys.admitted` does."""
    is_public = name in PUBLIC_RPCS
    metadata = dict(context.invocation_metadata())
    with nullcontext("") if is_public else service.api_keys.admitted(metadata) as tenant:
        if request.ByteSize() > service.limits.max_body_bytes:
            raise body_too_large(service.limits.max_body_bytes)
        yield tenant


@contextmanager
def _errors_as_status(context: GrpcContext) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        shown = as_client_error(error, request_id=uuid.uuid4().hex)
        details = grpc_details(shown)
        context.set_code(status_of(shown).grpc)
        context.set_details(details)
        raise RpcFailedError(details) from None
