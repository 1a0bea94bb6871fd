from contextlib import ExitStack

import pytest

from gptoss_ray.config import QuotaConfig
from gptoss_ray.errors import RateLimitError
from gptoss_ray.serving.quotas import Quotas


class Clock:
    now_s = 0.0

    def __call__(self):
        return self.now_s


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def quotas(clock):
    return Quotas(clock)


def num_taken(quotas, quota, num_tries, tenant="t"):
    num = 0
    for _ in range(num_tries):
        try:
            with quotas.request(tenant, quota):
                num += 1
        except RateLimitError:
            pass
    return num


def test_without_a_quota_nothing_is_refused(quotas):
    assert num_taken(quotas, QuotaConfig(), 1000) == 1000
    quotas.charge_tokens("t", QuotaConfig(), 10**9)
    quotas.check_tokens("t", QuotaConfig())


def test_requests_of_a_minute_may_come_at_once_and_then_come_back_steadily(quotas, clock):
    quota = QuotaConfig(requests_per_minute=6)
    assert num_taken(quotas, quota, 100) == 6
    clock.now_s += 9.9
    with pytest.raises(RateLimitError) as caught, quotas.request("t", quota):
        pass
    assert caught.value.retry_after_s == pytest.approx(0.1)
    clock.now_s += 0.1
    assert num_taken(quotas, quota, 100) == 1
    clock.now_s += 3600
    assert num_taken(quotas, quota, 100) == 6, "what was not used does not pile up"


def test_tenants_do_not_share_a_quota(quotas):
    quota = QuotaConfig(requests_per_minute=2)
    assert num_taken(quotas, quota, 9, "a") == 2
    assert num_taken(quotas, quota, 9, "b") == 2


def test_so_many_requests_are_under_way_at_once_and_an_end_makes_room(quotas):
    quota = QuotaConfig(max_concurrent=2)
    with ExitStack() as first:
        first.enter_context(quotas.request("t", quota))
        with quotas.request("t", quota), pytest.raises(RateLimitError), quotas.request("t", quota):
            pass
        assert num_taken(quotas, quota, 5) == 5, "one after the other"
    with pytest.raises(ValueError, match="of the caller"), quotas.request("t", quota):
        raise ValueError("of the caller")
    with ExitStack() as stack:
        for _ in range(2):
            stack.enter_context(quotas.request("t", quota))


def test_a_refused_request_costs_no_request_of_the_minute(quotas):
    quota = QuotaConfig(max_concurrent=1, requests_per_minute=3)
    with quotas.request("t", quota):
        assert num_taken(quotas, quota, 10) == 0
    assert num_taken(quotas, quota, 10) == 2


def test_tokens_may_go_below_zero_once_and_are_made_up_for(quotas, clock):
    quota = QuotaConfig(tokens_per_minute=600)
    quotas.check_tokens("t", quota)
    quotas.charge_tokens("t", quota, 1000)
    with pytest.raises(RateLimitError) as caught:
        quotas.check_tokens("t", quota)
    assert caught.value.retry_after_s == pytest.approx(40.1)
    clock.now_s += 40
    with pytest.raises(RateLimitError):
        quotas.check_tokens("t", quota)
    clock.now_s += 0.2
    quotas.check_tokens("t", quota)
