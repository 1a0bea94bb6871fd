import logging

import grpc
import pytest

from gptoss_ray import errors
from gptoss_ray.serving.status_codes import (
    STATUS_CODES,
    as_client_error,
    error_object,
    grpc_details,
    http_headers,
    status_of,
)

# Raised while starting or by the command line, never on the way of a request.
NOT_FOR_CLIENTS = {errors.ConfigError, errors.CheckpointError}


def all_errors(base: type[errors.GptossError] = errors.GptossError) -> set[type[errors.GptossError]]:
    return {base}.union(*(all_errors(cls) for cls in base.__subclasses__()))


def test_every_error_that_a_client_can_meet_has_a_row():
    met = {cls for cls in all_errors() if cls.__module__ == errors.__name__}
    met -= {errors.GptossError} | NOT_FOR_CLIENTS
    assert {cls for cls in met if not any(base in STATUS_CODES for base in cls.__mro__)} == set()


def test_the_nearest_class_of_an_error_tells_its_status():
    assert status_of(errors.ModelNotFoundError("m")).http == 404
    assert status_of(errors.RequestTooLargeError("m")).http == 413
    assert status_of(errors.ContextLengthExceededError("m")).grpc is grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize("error", [ValueError("/etc/secret"), errors.CheckpointError("/etc/secret")])
def test_a_fault_of_the_server_is_logged_under_its_id_and_not_told(error, caplog):
    with caplog.at_level(logging.ERROR):
        shown = as_client_error(error, "req-1")
    assert status_of(shown).http == 500
    assert "secret" not in shown.message
    assert "req-1" in shown.message
    assert "req-1" in caplog.text
    assert "secret" in caplog.text


def test_an_error_raised_on_purpose_is_told_as_it_is():
    error = errors.InvalidRequestError("bad", param="x", code="c")
    assert as_client_error(error, "req-1") is error
    assert error_object(error) == {
        "error": {"message": "bad", "type": "invalid_request_error", "param": "x", "code": "c"}
    }


def test_an_overloaded_server_says_when_to_come_back():
    error = errors.OverloadedError("full.", retry_after_s=0.4)
    assert http_headers(error) == {"retry-after": "1"}
    assert "0.4 s" in grpc_details(error)
