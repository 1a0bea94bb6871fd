"""What a failed gRPC call tells programs: google.rpc's details beside the code and the text."""

from __future__ import annotations

from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from gptoss_ray.errors import GptossError, InvalidRequestError, OverloadedError, UnavailableError
from gptoss_ray.serving.grpc_fields import field_path
from gptoss_ray.serving.status_codes import status_of

STATUS_DETAILS_KEY = "grpc-status-details-bin"
"""Trailing metadata in which gRPC's libraries look for a `google.rpc.Status`."""

ERROR_DOMAIN = "gptoss-ray"
RETRY_UNAVAILABLE_S = 1.0
_MAX_TEXT = 1024
"""Characters of a text in the details, which travel in headers (8 KiB)."""


def status_details(error: GptossError, request_id: str, request: type[Message] | None = None) -> bytes:
    """Return the `google.rpc.Status` of an error, serialized.

    Its details: ErrorInfo, whose `reason` is our code in capitals; RequestInfo; BadRequest with the path of
    the wrong field in a message of type `request`; RetryInfo where the same request may succeed later.
    """
    path = (
        field_path(request.DESCRIPTOR, error.param)[:_MAX_TEXT]
        if request is not None and error.param
        else error.param
    )
    text = error.message[:_MAX_TEXT]
    info = error_details_pb2.ErrorInfo(
        reason=(error.code or "invalid_request").upper(),
        domain=ERROR_DOMAIN,
        metadata={"field": path} if path else {},
    )
    details: list[Message] = [info, error_details_pb2.RequestInfo(request_id=request_id)]
    if isinstance(error, InvalidRequestError) and path:
        violation = error_details_pb2.BadRequest.FieldViolation(field=path, description=text)
        details.append(error_details_pb2.BadRequest(field_violations=[violation]))
    if (retry_s := _retry_s(error)) is not None:
        retry = error_details_pb2.RetryInfo()
        retry.retry_delay.FromMilliseconds(round(retry_s * 1000))
        details.append(retry)
    status = status_pb2.Status(code=status_of(error).grpc.value[0], message=text)
    for detail in details:
        status.details.add().Pack(detail)
    serialized: bytes = status.SerializeToString()
    return serialized


def _retry_s(error: GptossError) -> float | None:
    if isinstance(error, OverloadedError):
        return error.retry_after_s
    return RETRY_UNAVAILABLE_S if isinstance(error, UnavailableError) else None
