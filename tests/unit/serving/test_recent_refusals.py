from __future__ import annotations

import pytest

from gptoss_ray.errors import OverloadedError
from gptoss_ray.generation import GenerationRequest, SamplingParams
from gptoss_ray.serving.recent_refusals import MEMORY_S, RecentRefusals


class Clock:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def request(num_prompt: int = 10, max_tokens: int = 20, tenant: str = "loud") -> GenerationRequest:
    return GenerationRequest("r", (1,) * num_prompt, SamplingParams(max_tokens=max_tokens), cache_salt=tenant)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def refusals(clock: Clock) -> RecentRefusals:
    refusals = RecentRefusals(clock)
    refusals.note(request(), OverloadedError("full", retry_after_s=7.0))
    return refusals


@pytest.mark.parametrize("again", [request(), request(num_prompt=11), request(max_tokens=21)])
def test_what_a_replica_would_refuse_again_is_refused_with_the_same_words(refusals, again):
    with pytest.raises(OverloadedError, match="full") as caught:
        refusals.check(again)
    assert caught.value.retry_after_s == 7.0


def test_each_refusal_is_an_error_of_its_own(refusals):
    errors = []
    for _ in range(2):
        with pytest.raises(OverloadedError) as caught:
            refusals.check(request())
        errors.append(caught.value)
    assert errors[0] is not errors[1]


def test_smaller_requests_and_those_of_other_tenants_are_not_refused(refusals):
    refusals.check(request(num_prompt=9))
    refusals.check(request(tenant="quiet"))


def test_a_refusal_is_soon_doubted_and_then_one_request_asks_for_all(refusals, clock):
    clock.now_s += MEMORY_S
    refusals.check(request())
    with pytest.raises(OverloadedError, match="full"):
        refusals.check(request())
    clock.now_s += MEMORY_S
    refusals.check(request())


def test_where_a_request_is_taken_the_others_may_ask_too(refusals):
    refusals.forget(request())
    refusals.check(request())


def test_a_refusal_of_long_ago_holds_nobody_up(refusals, clock):
    clock.now_s += 2 * MEMORY_S
    for _ in range(2):
        refusals.check(request())


def test_tenants_that_were_refused_long_ago_take_no_memory(refusals, clock):
    clock.now_s += 2 * MEMORY_S
    refusals.note(request(tenant="quiet"), OverloadedError("full"))
    assert set(refusals._latest) == {"quiet"}


def test_a_doubted_refusal_still_holds_when_another_tenant_is_refused(refusals, clock):
    clock.now_s += MEMORY_S
    refusals.note(request(tenant="quiet"), OverloadedError("full"))
    refusals.check(request())
    with pytest.raises(OverloadedError, match="full"):
        refusals.check(request())
