from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest

from gptoss_ray.config import ParallelConfig
from gptoss_ray.errors import GroupBrokenError, RequestLostError, UnavailableError
from gptoss_ray.generation import FinishReason, GenerationRequest, SamplingParams
from gptoss_ray.parallel.step_sync import GroupStepSync
from gptoss_ray.ranks.step_loop import StepLoop
from tests.support.counting_engine import CountingEngine
from tests.support.output_recorder import OutputRecorder
from tests.support.thread_collectives import ThreadLink, thread_group

NUM_RANKS = 3
NEVER_S = 10.0


class Group:
    """The step loops of a few ranks, over engines that count."""

    def __init__(self, heartbeat_s: float) -> None:
        config = ParallelConfig(num_ranks=NUM_RANKS, heartbeat_s=heartbeat_s)
        self.links = [ThreadLink(collectives) for collectives in thread_group(NUM_RANKS)]
        self.engines = [CountingEngine(step_sync=GroupStepSync(link, config)) for link in self.links]
        self.delivered = [OutputRecorder() for _ in self.links]
        self.loops = [StepLoop(*pair) for pair in zip(self.engines, self.delivered, strict=True)]
        for loop in self.loops:
            loop.start()

    def wake(self) -> None:
        for loop in self.loops:
            loop.wake()

    def stop(self) -> None:
        for loop in self.loops:
            loop.stop(0)

        def have_ended() -> bool:
            self.wake()  # a rank that was asked during a sync would wait for a heartbeat
            return not any(loop._thread.is_alive() for loop in self.loops)

        until(have_ended)


@pytest.fixture
def start() -> Iterator[Callable[[float], Group]]:
    groups: list[Group] = []

    def start(heartbeat_s: float) -> Group:
        groups.append(Group(heartbeat_s))
        return groups[-1]

    yield start
    for group in groups:
        group.stop()


def request(name: str, max_tokens: int = 3) -> GenerationRequest:
    return GenerationRequest(name, (1,), SamplingParams(max_tokens=max_tokens), sink_id="a")


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_a_request_of_one_rank_is_stepped_by_all_though_nobody_woke_them(start):
    group = start(0.02)
    group.loops[1].submit(request("x")).result(5)
    assert group.delivered[1].wait_ended("x").finish_reason is FinishReason.LENGTH
    group.stop()
    assert [loop.num_steps for loop in group.loops] == [3] * NUM_RANKS
    assert all(loop.num_failed_steps == 0 for loop in group.loops)


def test_a_wake_brings_the_ranks_together_long_before_the_heartbeat(start):
    group = start(NEVER_S)
    until(lambda: all(engine.num_agree_calls == 1 for engine in group.engines))
    group.loops[2].submit(request("x")).result(5)
    group.wake()
    assert group.delivered[2].wait_ended("x").finish_reason is FinishReason.LENGTH


def test_an_idle_group_meets_at_heartbeats_only_and_calls_do_not_put_them_off(start):
    group = start(NEVER_S)
    until(lambda: all(engine.num_agree_calls == 1 for engine in group.engines))
    group.loops[0].stats().result(5)
    group.loops[0].abort(["unknown"]).result(5)
    assert [engine.num_agree_calls for engine in group.engines] == [1] * NUM_RANKS
    other = start(0.01)
    while other.engines[0].num_agree_calls < 10:
        other.loops[0].stats().result(5)


def test_requests_on_every_rank_all_end(start):
    group = start(0.02)
    for number, loop in enumerate(group.loops):
        loop.submit(request(f"r{number}", 5 + 10 * number)).result(5)
        loop.wake()
    for number, delivered in enumerate(group.delivered):
        delivered.wait_ended(f"r{number}")
        assert len(delivered.outputs(f"r{number}")) == 5 + 10 * number


def test_a_lost_rank_ends_the_requests_of_the_others_so_that_they_can_be_sent_again(start):
    group = start(0.02)
    group.loops[0].submit(request("x", 1_000_000)).result(5)
    until(lambda: len(group.delivered[0].outputs("x")) > 3)
    assert group.loops[0].is_responsive()
    group.links[2].leave()
    last = group.delivered[0].wait_ended("x")
    assert last.finish_reason is FinishReason.ERROR
    assert type(last.error) is RequestLostError
    assert "lost a rank" in str(last.error)
    assert last.position == len(group.delivered[0].outputs("x")) - 1
    assert not group.loops[0].is_responsive()
    assert not group.engines[0].requests


def test_a_broken_group_takes_no_requests_answers_calls_and_is_not_responsive(start):
    group = start(0.02)
    group.engines[1].faults = [GroupBrokenError("rank 0 is lost")]
    group.loops[1].submit(request("x")).result(5)
    assert group.delivered[1].wait_ended("x").finish_reason is FinishReason.ERROR
    with pytest.raises(UnavailableError, match="lost a rank"):
        group.loops[1].submit(request("late")).result(5)
    assert group.loops[1].stats().result(5) == {"num_running": 0}
    group.loops[1].abort(["x"]).result(5)
    group.loops[1].wake()
    assert not group.loops[1].is_responsive()
    assert group.loops[1].num_steps == 0
    group.links[1].leave()


def test_a_rank_that_is_asked_to_stop_keeps_in_step_until_all_are(start):
    group = start(0.01)
    group.loops[0].stop(0)
    group.loops[1].submit(request("x", 20)).result(5)
    assert group.delivered[1].wait_ended("x").finish_reason is FinishReason.LENGTH
    assert group.loops[0]._thread.is_alive()
