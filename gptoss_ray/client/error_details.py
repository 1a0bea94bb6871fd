"""What a server tells programs of a failed call: google.rpc's details in its trailing metadata."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

_STATUS_DETAILS_KEY = "grpc-status-details-bin"


@dataclass(frozen=True, slots=True)
class FieldViolation:
    """A field of the request that is wrong: its path in the message, and why."""

    field: str
    description: str


@dataclass(frozen=True, slots=True)
class ErrorDetails:
    """Why a call failed.

    Attributes:
        reason: The server's code in capitals, such as "MODEL_NOT_FOUND"; empty where it told none.
        field_violations: What is wrong with the request.
        retry_after_s: The same request may succeed in so many seconds; None: it may not, or nobody knows.
        request_id: By which the server's log names the call; empty where it told none.
    """

    reason: str = ""
    field_violations: tuple[FieldViolation, ...] = ()
    retry_after_s: float | None = None
    request_id: str = ""


def error_details(error: grpc.RpcError) -> ErrorDetails:
    """Return what the server told of a failed call, empty where it told nothing, as when it was lost."""
    serialized = _status_details(error)
    if serialized is None:
        return ErrorDetails()
    try:
        status = status_pb2.Status.FromString(serialized)
    except DecodeError:
        return ErrorDetails()
    info, bad = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
    retry, request = error_details_pb2.RetryInfo(), error_details_pb2.RequestInfo()
    retry_after_s = None
    for detail in status.details:
        detail.Unpack(info)
        detail.Unpack(bad)
        detail.Unpack(request)
        if detail.Unpack(retry):
            retry_after_s = retry.retry_delay.ToMilliseconds() / 1000
    return ErrorDetails(
        reason=info.reason,
        field_violations=tuple(
            FieldViolation(violation.field, violation.description) for violation in bad.field_violations
        ),
        retry_after_s=retry_after_s,
        request_id=request.request_id,
    )


def _status_details(error: grpc.RpcError) -> bytes | None:
    metadata: Any = error.trailing_metadata() if isinstance(error, grpc.Call | grpc.aio.AioRpcError) else None
    found = next((value for key, value in metadata or () if key == _STATUS_DETAILS_KEY), None)
    return found if isinstance(found, bytes) else None
