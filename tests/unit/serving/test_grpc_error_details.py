"""What Serve makes of an error on its way to a gRPC client, with our details in it."""

from __future__ import annotations

import asyncio
import pickle
import warnings

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2
from ray.exceptions import ActorUnavailableError, RayTaskError

with warnings.catch_warnings():
    # Importing Serve warns of how Serve uses pydantic.
    warnings.simplefilter("ignore")
    from ray.serve._private.grpc_util import get_grpc_response_status, set_grpc_code_and_details
    from ray.serve.exceptions import BackPressureError, gRPCStatusError

    from gptoss_ray.serving.grpc_error_details import _setting_details, detailed

from gptoss_ray.serving.grpc_rpc import RpcFailedError
from gptoss_ray.serving.grpc_status import STATUS_DETAILS_KEY

status_of = detailed(get_grpc_response_status)


class Context:
    def __init__(self):
        self._code, self._details, self._metadata = None, None, (("request_id", "s"), ("x-request-id", "old"))

    def code(self):
        return self._code

    def details(self):
        return self._details

    def trailing_metadata(self):
        return self._metadata

    def set_code(self, code):
        self._code = code

    def set_details(self, details):
        self._details = details

    def set_trailing_metadata(self, metadata):
        self._metadata = metadata


def told(error):
    """Return what a client of this failure gets."""
    context = Context()
    _setting_details(set_grpc_code_and_details)(context, status_of(error, None, "serve-1"))
    return context


def reason(context):
    info = error_details_pb2.ErrorInfo()
    status = status_pb2.Status.FromString(dict(context.trailing_metadata())[STATUS_DETAILS_KEY])
    assert any(detail.Unpack(info) for detail in status.details)
    return info.reason


def test_what_a_method_tells_arrives_through_ray():
    failed = RpcFailedError("no.", (("x-request-id", "job"), (STATUS_DETAILS_KEY, b"details")))
    error = gRPCStatusError(failed, grpc.StatusCode.NOT_FOUND, "no.")
    carried = RayTaskError("f", "traceback", pickle.loads(pickle.dumps(error)))
    context = told(carried.as_instanceof_cause())
    assert (context.code(), context.details()) == (grpc.StatusCode.NOT_FOUND, "no.")
    assert dict(context.trailing_metadata()) == {
        "request_id": "s",
        "x-request-id": "job",
        STATUS_DETAILS_KEY: b"details",
    }


@pytest.mark.parametrize(
    ("error", "code", "expected"),
    [
        (ActorUnavailableError("gone", None), grpc.StatusCode.UNAVAILABLE, "UNAVAILABLE"),
        (BackPressureError(5, 5), grpc.StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED"),
        (RuntimeError("Traceback: /secret"), grpc.StatusCode.INTERNAL, "INTERNAL_ERROR"),
    ],
)
def test_what_fails_in_serve_is_told_like_our_own_errors(error, code, expected):
    context = told(error)
    assert context.code() is code
    assert reason(context) == expected
    assert "secret" not in context.details()


@pytest.mark.parametrize("error", [asyncio.CancelledError(), TimeoutError()])
def test_cancels_and_timeouts_stay_as_serve_tells_them(error):
    assert status_of(error, 1.0, "r") == get_grpc_response_status(error, 1.0, "r")
