"""The one table from error class to HTTP status, OpenAI error type and gRPC code."""

from __future__ import annotations

import logging
import math
from typing import NamedTuple

import grpc

from gptoss_ray.errors import (
    AuthenticationError,
    ContextLengthExceededError,
    DeadlineExceededError,
    GptossError,
    InternalError,
    InvalidRequestError,
    MediaTypeError,
    NotFoundError,
    OverloadedError,
    RequestAbortedError,
    RequestStalledError,
    RequestTooLargeError,
    UnavailableError,
)
from gptoss_ray.serving.openai_answers import ErrorDetails, ErrorObject

logger = logging.getLogger(__name__)


class Status(NamedTuple):
    """How one class of errors is told: HTTP status, OpenAI's `type`, gRPC code."""

    http: int
    openai_type: str
    grpc: grpc.StatusCode


STATUS_CODES: dict[type[GptossError], Status] = {
    InvalidRequestError: Status(400, "invalid_request_error", grpc.StatusCode.INVALID_ARGUMENT),
    ContextLengthExceededError: Status(400, "invalid_request_error", grpc.StatusCode.INVALID_ARGUMENT),
    RequestTooLargeError: Status(413, "invalid_request_error", grpc.StatusCode.RESOURCE_EXHAUSTED),
    RequestStalledError: Status(408, "invalid_request_error", grpc.StatusCode.DEADLINE_EXCEEDED),
    MediaTypeError: Status(415, "invalid_request_error", grpc.StatusCode.INVALID_ARGUMENT),
    AuthenticationError: Status(401, "invalid_request_error", grpc.StatusCode.UNAUTHENTICATED),
    NotFoundError: Status(404, "invalid_request_error", grpc.StatusCode.NOT_FOUND),
    OverloadedError: Status(429, "rate_limit_error", grpc.StatusCode.RESOURCE_EXHAUSTED),
    UnavailableError: Status(503, "server_error", grpc.StatusCode.UNAVAILABLE),
    DeadlineExceededError: Status(504, "server_error", grpc.StatusCode.DEADLINE_EXCEEDED),
    RequestAbortedError: Status(499, "server_error", grpc.StatusCode.CANCELLED),
    InternalError: Status(500, "server_error", grpc.StatusCode.INTERNAL),
}


def status_of(error: GptossError) -> Status:
    """Return the row of the nearest class in the table; ours alone is an error nobody foresaw."""
    for cls in type(error).__mro__:
        if cls in STATUS_CODES:
            return STATUS_CODES[cls]
    return STATUS_CODES[InternalError]


def as_client_error(error: Exception, request_id: str) -> GptossError:
    """Return what may be shown of `error`: itself if raised on purpose, else a bare InternalError.

    A fault of the server goes to the log with its traceback, under the request id.
    """
    if isinstance(error, GptossError) and status_of(error) is not STATUS_CODES[InternalError]:
        return error
    logger.error("event=internal_error request_id=%s", request_id, exc_info=error)
    return InternalError(
        f"The server failed on this request; its log tells why under request id {request_id}."
    )


def error_object(error: GptossError) -> ErrorObject:
    """Return OpenAI's error object: `{"error": {message, type, param, code}}`."""
    details = ErrorDetails(
        message=error.message, type=status_of(error).openai_type, param=error.param, code=error.code
    )
    return ErrorObject(error=details)


def http_headers(error: GptossError) -> dict[str, str]:
    """Return the headers that go with an error's status: how to authenticate, when to come back."""
    if isinstance(error, AuthenticationError):
        return {"www-authenticate": "Bearer"}
    if isinstance(error, OverloadedError):
        return {"retry-after": str(max(1, math.ceil(error.retry_after_s)))}
    return {}


def grpc_details(error: GptossError) -> str:
    """Return the text of a gRPC status, for people; `grpc_status.py` has what programs read."""
    details = error.message
    if isinstance(error, OverloadedError):
        details += f" Retry after {error.retry_after_s:g} s."
    return f"{details} ({error.code})" if error.code else details
