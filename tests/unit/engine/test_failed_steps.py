from __future__ import annotations

from gptoss_ray.engine.failed_steps import FailedSteps, Verdict


def test_a_step_that_fails_once_is_tried_again():
    steps = FailedSteps()
    assert steps.fail(["a", "b"]) is Verdict.RETRY
    steps.complete(["a", "b"])
    assert steps.fail(["a", "b"]) is Verdict.RETRY


def test_requests_whose_step_fails_again_run_alone_and_one_that_fails_there_twice_is_to_blame():
    steps = FailedSteps()
    assert steps.fail(["a", "b", "bad"]) is Verdict.RETRY
    assert steps.fail(["a", "b", "bad"]) is Verdict.ISOLATE
    steps.complete(["a"])
    assert steps.fail(["bad"]) is Verdict.RETRY
    assert steps.fail(["bad"]) is Verdict.BLAME
    steps.complete(["b"])


def test_steps_of_others_in_between_clear_nobody():
    steps = FailedSteps()
    assert steps.fail(["bad"]) is Verdict.RETRY
    steps.complete([])
    steps.complete(["a"])
    assert steps.fail(["bad"]) is Verdict.BLAME


def test_two_that_fail_in_turns_are_both_found():
    steps = FailedSteps()
    assert [steps.fail([id_]) for id_ in ("one", "two", "one", "two")] == [
        *(Verdict.RETRY, Verdict.RETRY),
        *(Verdict.BLAME, Verdict.BLAME),
    ]


def test_a_request_that_has_gone_leaves_no_suspicion_to_one_of_its_id():
    steps = FailedSteps()
    steps.fail(["a"])
    steps.forget("a")
    assert steps.fail(["a"]) is Verdict.RETRY


def test_a_step_without_requests_that_fails_twice_in_a_row_is_blamed_on_all():
    steps = FailedSteps()
    assert steps.fail([]) is Verdict.RETRY
    steps.complete([])
    assert steps.fail([]) is Verdict.RETRY
    assert steps.fail([]) is Verdict.BLAME
    assert steps.fail([]) is Verdict.RETRY
