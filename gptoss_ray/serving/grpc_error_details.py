"""The one place that changes how stock Ray Serve ends a failed gRPC call.

Serve 2.60 keeps code and text of a failed method and drops its trailing metadata, in which gRPC carries the
details of an error (`grpc-status-details-bin`). What fails in Serve itself it tells as INTERNAL, with a
traceback: that an ingress replica was lost, too, which a client may try again. Both the proxy and, behind
HAProxy, the replica pass through the two functions that are wrapped here.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import grpc
from ray.exceptions import RayError, RayTaskError
from ray.serve._private.proxy_request_response import ResponseStatus
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError, gRPCStatusError

from gptoss_ray.errors import GptossError, OverloadedError, UnavailableError
from gptoss_ray.serving.grpc_rpc import Metadata, RpcFailedError
from gptoss_ray.serving.grpc_status import STATUS_DETAILS_KEY, status_details
from gptoss_ray.serving.request_id import REQUEST_ID_HEADER
from gptoss_ray.serving.status_codes import as_client_error, grpc_details, status_of

StatusOf = Callable[[BaseException, float | None, str], ResponseStatus]
_MODULES = ("ray.serve._private.proxy", "ray.serve._private.replica")


@dataclass(frozen=True)
class DetailedStatus(ResponseStatus):
    """Serve's status of a failed call, with the metadata that go along."""

    trailing_metadata: Metadata = ()


def carry_error_details() -> None:
    """Make this process tell the details of gRPC errors, and no traceback."""
    for name in _MODULES:
        module: Any = importlib.import_module(name)
        module.get_grpc_response_status = detailed(module.get_grpc_response_status)
        module.set_grpc_code_and_details = _setting_details(module.set_grpc_code_and_details)


def detailed(status_of_error: StatusOf) -> StatusOf:
    """Return Serve's function from an exception to a status, with our details in the status."""

    def detailed_status(error: BaseException, timeout_s: float | None, request_id: str) -> ResponseStatus:
        status = status_of_error(error, timeout_s, request_id)
        if isinstance(error, gRPCStatusError):
            failure = error.original_exception
            metadata = failure.trailing_metadata if isinstance(failure, RpcFailedError) else ()
            return DetailedStatus(
                status.code, is_error=True, message=status.message, trailing_metadata=metadata
            )
        shown = _of_serve(error)
        if shown is None:
            if status.code is not grpc.StatusCode.INTERNAL:
                return status
            shown = as_client_error(RuntimeError(str(error)), request_id)
        details = status_details(shown, request_id)
        return DetailedStatus(
            status_of(shown).grpc,
            is_error=True,
            message=grpc_details(shown),
            trailing_metadata=((REQUEST_ID_HEADER, request_id), (STATUS_DETAILS_KEY, details)),
        )

    return detailed_status


def _of_serve(error: BaseException) -> GptossError | None:
    """Return an error of Serve's own as ours; None where it is none that a client can do anything about."""
    if isinstance(error, BackPressureError):
        return OverloadedError("The server is full; try again in a moment.")
    is_lost = isinstance(error, RayError) and not isinstance(error, RayTaskError)
    if is_lost or isinstance(error, DeploymentUnavailableError):
        return UnavailableError("The ingress replica that worked on this request was lost; send it again.")
    return None


def _setting_details(
    set_code_and_details: Callable[[Any, ResponseStatus], None],
) -> Callable[[Any, ResponseStatus], None]:
    def set_all(context: Any, status: ResponseStatus) -> None:
        set_code_and_details(context, status)
        if isinstance(status, DetailedStatus):
            ours = {key for key, _ in status.trailing_metadata}
            others = [(key, value) for key, value in context.trailing_metadata() or () if key not in ours]
            context.set_trailing_metadata((*others, *status.trailing_metadata))

    return set_all
