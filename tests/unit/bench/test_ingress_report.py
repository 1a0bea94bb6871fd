from __future__ import annotations

import pytest

from gptoss_ray.bench.ingress_report import (
    HostileResult,
    IngressReport,
    Maximum,
    Overhead,
    TimedAnswer,
    greatest_gap_s,
    timed,
)
from gptoss_ray.bench.streaming_clients import StreamedAnswer
from gptoss_ray.errors import GptossError

DRAWN_S = (1.0, 1.05, 1.1, 1.15)


def answer(*delays_ms):
    return TimedAnswer(DRAWN_S, tuple(at + ms / 1e3 for at, ms in zip(DRAWN_S, delays_ms, strict=True)))


def test_an_answer_is_found_by_its_id_among_the_stamps():
    (found,) = timed(
        [StreamedAnswer("chatcmpl-b", (3.5, 4.5))], {"other-0": (1.0,), "chatcmpl-b-0": (3.0, 4.0)}
    )
    assert found == TimedAnswer((3.0, 4.0), (3.5, 4.5))


@pytest.mark.parametrize("stamps", [{}, {"a-0": (1.0,)}, {"a-0": (1.0, 2.0, 3.0)}])
def test_a_token_that_was_lost_or_came_twice_ends_the_measurement(stamps):
    with pytest.raises(GptossError, match=r"answer a: 2 tokens reached the client, \d left the engine"):
        timed([StreamedAnswer("a", (1.0, 2.0))], stamps)


def test_delays_leave_out_the_last_token():
    assert answer(1, 2, 3, 999).delays_s == pytest.approx([0.001, 0.002, 0.003])


def test_the_overhead_is_of_all_tokens_and_the_first_ones_stand_apart():
    row = Overhead("default", "HTTP", 20.0, (answer(9, 1, 1, 1), answer(5, 2, 2, 2))).row()
    assert (row["p50_ms"], row["p99_ms"]) == (2, 9)
    assert (row["first_p50_ms"], row["first_max_ms"]) == (5, 9)
    assert row["streams"] == 2
    assert row["tokens_per_s"] == 40
    assert row["goal_met"] == "yes"


@pytest.mark.parametrize(
    ("delays_ms", "num_held", "is_met"),
    [
        ((1, 1, 1, 1), 0, "yes"),
        ((1, 3.5, 3.5, 1), 0, "no"),
        ((49, 1, 1, 1), 0, "yes"),
        ((51, 3, 1, 1), 1, "no"),
    ],
)
def test_the_goal_is_missed_by_the_median_or_by_a_first_token_that_waits_for_the_second(
    delays_ms, num_held, is_met
):
    row = Overhead("default", "HTTP", 20.0, (answer(*delays_ms),)).row()
    assert (row["first_held_back"], row["goal_met"]) == (num_held, is_met)


def test_the_goal_is_not_met_by_an_engine_that_did_not_keep_its_rate():
    assert Overhead("default", "HTTP", 21.0, (answer(1, 1, 1, 1),)).row()["goal_met"] == "yes"
    assert Overhead("default", "HTTP", 22.0, (answer(1, 1, 1, 1),)).row()["goal_met"] == "no"


def test_the_maximum_is_tokens_by_time_with_the_share_that_the_client_computed():
    row = Maximum("haproxy", "gRPC", 32, 5000, 2.0, 1.5).row()
    assert (row["tokens_per_s"], row["client_cpu_percent"]) == (2500, 75)


@pytest.mark.parametrize(
    ("begin_s", "end_s", "gap_s"), [(0.0, 1.0, 1.0), (1.0, 2.0, 3.0), (5.5, 5.6, 2.0), (3.9, 4.1, 3.0)]
)
def test_a_gap_counts_where_any_part_of_it_lies_in_the_time(begin_s, end_s, gap_s):
    assert greatest_gap_s([0.0, 1.0, 4.0, 6.0], begin_s, end_s) == gap_s


@pytest.mark.parametrize("moments_s", [[], [1.0, 2.0], [0.0, 1.5]])
def test_a_stream_that_did_not_go_on_all_the_time_tells_no_gaps(moments_s):
    with pytest.raises(GptossError, match="did not go on"):
        greatest_gap_s(moments_s, 0.5, 2.5)


@pytest.mark.parametrize(
    ("statuses", "seconds", "gap_s", "is_met"),
    [
        ((200, 400), (0.1, 1.9), 0.09, "yes"),
        ((400, 500), (0.1, 0.1), 0.05, "no"),
        ((400,), (2.1,), 0.05, "no"),
        ((400,), (0.1,), 0.1, "no"),
        ((), (), 0.05, "yes"),
    ],
)
def test_a_hostile_body_must_be_answered_in_time_and_leave_the_stream_alone(statuses, seconds, gap_s, is_met):
    row = HostileResult("default", "NUL", "/v1/completions", statuses, seconds, gap_s).row()
    assert row["goal_met"] == is_met
    assert row["greatest_gap_ms"] == 1e3 * gap_s


def test_a_mode_that_could_not_be_measured_is_named_with_the_reason_and_has_no_rows():
    report = IngressReport(2, 20.0, [Overhead("default", "HTTP", 20.0, (answer(1, 1, 1, 1),))])
    report.not_measured["haproxy"] = "no HAProxy here"
    tables = report.tables()
    assert tables["not measured"] == [{"mode": "haproxy", "reason": "no HAProxy here"}]
    assert len(tables) == 2
    document = report.to_json()
    assert document["not_measured"] == {"haproxy": "no HAProxy here"}
    assert [row["mode"] for row in document["overhead"]] == ["default"]
    assert document["goals"]["max_p50_ms"] == 3
