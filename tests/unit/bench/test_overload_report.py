import pytest

from gptoss_ray.bench.overload_report import Load, Outcome, OverloadReport


def answered(key, ended_s, num_tokens=10):
    return Outcome(key, 200, ended_s - 1, ended_s, num_tokens)


def refused(key, ended_s, took_s):
    return Outcome(key, 429, ended_s - took_s, ended_s)


PEAK = Load([answered("a", second) for second in range(10)], 0, 10)


def report(*outcomes):
    return OverloadReport(PEAK, Load(outcomes, 0, 10), 5, "a", "b")


def goals(found):
    return {row["what"]: (row["measured"], row["met"]) for row in found.tables()["goals"]}


def test_only_what_was_completed_within_the_time_is_goodput():
    load = Load([answered("a", 1), answered("a", 11), refused("a", 2, 0.01)], 0, 10)
    assert load.tokens_per_s == 1
    assert load.requests_per_s == pytest.approx(0.2)
    assert (load.num_of_status(200), load.num_of_status(429)) == (1, 1)


def test_half_of_the_peak_is_no_goal_met_and_all_of_it_is():
    half = report(*(answered("ab"[second % 2], second) for second in range(0, 10, 2)))
    whole = report(*(answered("ab"[second % 2], second) for second in range(10)))
    assert goals(half)["goodput of the peak"] == (0.5, "no")
    assert goals(whole)["goodput of the peak"] == (1.0, "yes")


def test_shares_are_of_tokens_and_not_of_requests():
    found = report(answered("a", 1, 90), *(answered("b", 2, 10) for _ in range(9)))
    assert goals(found)["tokens of the key with the fewer requests"] == (0.5, "yes")


def test_refusals_are_timed_by_their_slowest_percent():
    found = report(*(refused("a", 5, 0.01) for _ in range(97)), *(refused("a", 5, 0.2) for _ in range(3)))
    assert goals(found)["refusal, p50, ms"] == (10.0, "yes")
    assert goals(found)["refusal, p99, ms"] == (200.0, "no")


def test_what_failed_is_told_apart():
    found = report(Outcome("a", 0, 1, 2), Outcome("a", 500, 1, 2))
    assert found.tables()["completed answers, at the peak and at 5 times its requests"][1]["failed"] == 2
