from __future__ import annotations

import grpc
import pytest

from gptoss_ray.client.error_details import ErrorDetails, error_details
from gptoss_ray.client.retry import Attempts, RetryPolicy
from gptoss_ray.errors import InvalidRequestError, OverloadedError, RequestTooLargeError, UnavailableError
from gptoss_ray.serving.grpc_status import STATUS_DETAILS_KEY, status_details
from gptoss_ray.serving.status_codes import status_of


def failure(error, *, told=True):
    metadata = ((STATUS_DETAILS_KEY, status_details(error, "r")),) if told else ()
    return grpc.aio.AioRpcError(
        status_of(error).grpc, grpc.aio.Metadata(), grpc.aio.Metadata(*metadata), "details"
    )


LOST = failure(UnavailableError("lost"), told=False)


@pytest.mark.parametrize(
    ("error", "may_succeed"),
    [
        (LOST, True),
        (failure(UnavailableError("loading")), True),
        (failure(OverloadedError("full")), True),
        (failure(OverloadedError("full"), told=False), False),
        (failure(RequestTooLargeError("large")), False),
        (failure(InvalidRequestError("wrong", param="n")), False),
        (grpc.RpcError(), False),
    ],
)
def test_only_what_may_succeed_later_is_tried_again(error, may_succeed):
    assert (RetryPolicy().delay_s(1, error, 0.5) is not None) == may_succeed


def test_waits_double_up_to_a_limit_and_are_jittered_by_half():
    policy = RetryPolicy(max_attempts=9, first_backoff_s=1, multiplier=2, max_backoff_s=5)
    assert [policy.delay_s(n, LOST, 1.0) for n in (1, 2, 3, 4, 8)] == [1, 2, 4, 5, 5]
    assert [policy.delay_s(n, LOST, 0.0) for n in (1, 2, 3)] == [0.5, 1, 2]
    assert policy.delay_s(9, LOST, 0.0) is None


def test_the_wait_is_never_shorter_than_the_server_asks():
    full = failure(OverloadedError("full", retry_after_s=3.5))
    assert RetryPolicy(first_backoff_s=0.1).delay_s(1, full, 1.0) == 3.5


def test_failures_count_anew_once_a_piece_came():
    attempts = Attempts(RetryPolicy(max_attempts=3), None)
    for _ in range(4):
        attempts.delay_s(LOST)
        attempts.delay_s(LOST)
        attempts.progressed()
    attempts.delay_s(LOST)
    attempts.delay_s(LOST)
    with pytest.raises(grpc.RpcError):
        attempts.delay_s(LOST)


def test_nothing_is_tried_again_behind_the_deadline_of_the_call():
    now_s = 100.0
    attempts = Attempts(RetryPolicy(first_backoff_s=2, max_attempts=99), 3.0, lambda: now_s)
    assert attempts.time_left_s() == 3.0
    assert 1 <= attempts.delay_s(LOST) <= 2
    now_s = 102.5
    assert attempts.time_left_s() == 0.5
    with pytest.raises(grpc.RpcError):
        attempts.delay_s(LOST)
    now_s = 105.0
    assert attempts.time_left_s() == 0.0


def test_an_error_without_details_or_with_broken_ones_tells_nothing():
    assert error_details(LOST) == error_details(grpc.RpcError()) == ErrorDetails()
    broken = grpc.aio.AioRpcError(
        grpc.StatusCode.UNAVAILABLE,
        grpc.aio.Metadata(),
        grpc.aio.Metadata((STATUS_DETAILS_KEY, b"\xff\xff")),
    )
    assert error_details(broken) == ErrorDetails()
