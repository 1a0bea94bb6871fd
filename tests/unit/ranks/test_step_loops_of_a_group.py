from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from functools import partial

import pytest

from gptoss_ray.config import ParallelConfig
from gptoss_ray.errors import (
    GroupBrokenError,
    InternalError,
    RequestLostError,
    StepFailedError,
    UnavailableError,
)
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

    def __init__(self, heartbeat_s: float, epoch_wait_s: float = 0.0) -> None:
        self.num_broken = 0
        config = ParallelConfig(num_ranks=NUM_RANKS, heartbeat_s=heartbeat_s)
        self.links = [ThreadLink(collectives) for collectives in thread_group(NUM_RANKS)]
        self.engines = [CountingEngine(step_sync=GroupStepSync(link, config)) for link in self.links]
        self.delivered = [OutputRecorder() for _ in self.links]
        self.loops = [
            StepLoop(*pair, epoch_wait_s=epoch_wait_s, on_broken=self.note_broken)
            for pair in zip(self.engines, self.delivered, strict=True)
        ]
        for loop in self.loops:
            loop.start()

    def note_broken(self) -> None:
        self.num_broken += 1

    def form_again(self) -> list[Future[None]]:
        """Bring all ranks into their next epoch."""
        links = [ThreadLink(collectives, 2) for collectives in thread_group(NUM_RANKS)]

        def join(number: int) -> None:
            self.links[number].collectives, self.links[number].epoch = links[number].collectives, 2

        return [loop.change_epoch(partial(join, number)) for number, loop in enumerate(self.loops)]

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
def start() -> Iterator[Callable[..., Group]]:
    groups: list[Group] = []

    def start(heartbeat_s: float, epoch_wait_s: float = 0.0) -> Group:
        groups.append(Group(heartbeat_s, epoch_wait_s))
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


def test_requests_wait_for_the_next_epoch_and_go_on_where_they_were(start):
    group = start(0.02, epoch_wait_s=60)
    group.loops[0].submit(request("x", 200)).result(5)
    until(lambda: len(group.delivered[0].outputs("x")) > 3)
    group.links[2].leave()
    until(lambda: group.num_broken == NUM_RANKS)
    assert not any(loop.is_in_step for loop in group.loops)
    assert group.loops[0].is_responsive()
    group.loops[1].submit(request("y")).result(5)
    num_outputs = len(group.delivered[0].outputs("x"))
    assert group.delivered[0].outputs("x")[-1].finish_reason is None
    for joined in group.form_again():
        joined.result(5)
    assert group.delivered[0].wait_ended("x").finish_reason is FinishReason.LENGTH
    assert group.delivered[1].wait_ended("y").finish_reason is FinishReason.LENGTH
    assert [output.position for output in group.delivered[0].outputs("x")] == list(range(200))
    assert num_outputs < 200
    assert all(loop.is_in_step for loop in group.loops)


def test_requests_end_when_no_epoch_comes_in_time(start):
    group = start(0.02, epoch_wait_s=0.1)
    group.loops[0].submit(request("x", 1_000_000)).result(5)
    until(lambda: len(group.delivered[0].outputs("x")) > 3)
    group.links[2].leave()
    assert type(group.delivered[0].wait_ended("x").error) is RequestLostError
    assert not group.loops[0].is_responsive()
    with pytest.raises(UnavailableError, match="lost a rank"):
        group.loops[0].change_epoch(lambda: None).result(5)


def test_an_epoch_that_cannot_be_joined_leaves_the_rank_waiting_for_another(start):
    group = start(0.02, epoch_wait_s=60)
    group.links[2].leave()
    until(lambda: group.num_broken == NUM_RANKS)

    def join() -> None:
        raise GroupBrokenError("nobody came")

    with pytest.raises(GroupBrokenError, match="nobody came"):
        group.loops[0].change_epoch(join).result(5)
    for joined in group.form_again():
        joined.result(5)
    group.loops[0].submit(request("x")).result(5)
    assert group.delivered[0].wait_ended("x").finish_reason is FinishReason.LENGTH


def test_an_epoch_changes_between_two_steps_of_ranks_that_are_in_step(start):
    group = start(0.005, epoch_wait_s=60)
    group.loops[0].submit(request("x", 100)).result(5)
    until(lambda: len(group.delivered[0].outputs("x")) > 3)
    old = group.links[0].collectives
    joined = group.form_again()
    old.close()  # as the first rank does that joins another epoch
    for each in joined:
        each.result(5)
    assert group.delivered[0].wait_ended("x").finish_reason is FinishReason.LENGTH
    assert [output.position for output in group.delivered[0].outputs("x")] == list(range(100))


def test_a_step_that_fails_twice_on_a_rank_fails_the_requests_of_that_rank_alone(start):
    group = start(0.02, epoch_wait_s=60)
    group.engines[1].faults = [StepFailedError("a step failed"), StepFailedError("again")]
    group.loops[0].submit(request("other", 30)).result(5)
    group.loops[1].submit(request("poison")).result(5)
    until(lambda: group.loops[1].num_failed_steps == 1)
    group.links[1].leave()
    until(lambda: group.num_broken == NUM_RANKS)
    assert not group.delivered[1].outputs("poison")
    for joined in group.form_again():
        joined.result(5)
    assert type(group.delivered[1].wait_ended("poison").error) is InternalError
    group.links[1].leave()
    until(lambda: group.num_broken == 2 * NUM_RANKS)
    assert all(output.error is None for output in group.delivered[0].outputs("other"))


def test_a_rank_that_stands_by_waits_for_its_first_epoch():
    delivered = OutputRecorder()
    loop = StepLoop(CountingEngine(), delivered, epoch_wait_s=60, is_stopped=True)
    loop.start()
    loop.submit(request("x")).result(5)
    assert loop.num_steps == 0
    loop.change_epoch(lambda: None).result(5)
    assert delivered.wait_ended("x").finish_reason is FinishReason.LENGTH
    loop.stop()
