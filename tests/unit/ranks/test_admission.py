from __future__ import annotations

import random

import pytest

from gptoss_ray.errors import OverloadedError
from gptoss_ray.generation import GenerationRequest, SamplingParams
from gptoss_ray.ranks.admission import Admission, QueueLimits, Ticket
from gptoss_ray.ranks.rank_room import FIRST_OUTPUT_TOKENS, OutputEstimate, RankRoom
from gptoss_ray.ranks.rank_selector import RankSelector

BLOCK = 16


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


class Replica:
    """An admission with its ranks; `running` and `waiting` are what a client would see."""

    def __init__(
        self,
        *,
        num_ranks: int = 1,
        max_live: int = 2,
        num_blocks: int = 10_000,
        max_requests: int = 100,
        max_tokens: int = 1 << 20,
    ) -> None:
        self.clock = Clock()
        room = RankRoom(max_live, num_blocks, blocks_of=lambda num_tokens: -(-num_tokens // BLOCK))
        self.selector = RankSelector(num_ranks, BLOCK, room)
        limits = QueueLimits(max_requests, max_tokens)
        self.admission = Admission(
            self.selector, limits, block_size=BLOCK, caches_prefixes=True, clock=self.clock
        )
        self.running: dict[str, int] = {}
        self.tickets: dict[str, Ticket] = {}
        self._number = 0

    def enter(
        self, tenant: str = "", *, num_prompt: int = 10, max_tokens: int = 10, share: float = 1.0
    ) -> str:
        self._number += 1
        name = f"{tenant}{self._number}"
        prompt = tuple(random.Random(self._number).choices(range(1000), k=num_prompt))
        request = GenerationRequest(
            name, prompt, SamplingParams(max_tokens=max_tokens), cache_salt=tenant, share=share
        )

        def admit(rank: int) -> None:
            assert name not in self.running
            self.running[name] = rank

        self.tickets[name] = self.admission.enter(request, admit)
        return name

    def leave(self, name: str, num_output_tokens: int | None = None) -> None:
        self.running.pop(name, None)
        self.admission.leave(self.tickets.pop(name), num_output_tokens)

    def end_oldest(self) -> str:
        name = next(iter(self.running))
        self.leave(name, 10)
        return name


def test_a_request_starts_at_once_where_there_is_room_and_waits_where_there_is_none():
    replica = Replica(num_ranks=2, max_live=2)
    names = [replica.enter() for _ in range(6)]
    assert list(replica.running) == names[:4]
    assert sorted(replica.running.values()) == [0, 0, 1, 1]
    assert replica.admission.num_queued == 2
    replica.end_oldest()
    assert names[4] in replica.running
    assert replica.admission.num_queued == 1


def test_a_request_waits_for_kv_blocks_and_nobody_overtakes_it():
    replica = Replica(max_live=8, num_blocks=20)
    first = replica.enter(num_prompt=15 * BLOCK)
    large = replica.enter(num_prompt=10 * BLOCK)
    small = replica.enter()
    assert list(replica.running) == [first]
    replica.leave(first, 10)
    assert list(replica.running) == [large, small]


def test_a_request_that_no_rank_could_hold_beside_others_runs_alone():
    replica = Replica(max_live=8, num_blocks=4)
    first = replica.enter()
    large = replica.enter(num_prompt=100 * BLOCK)
    replica.leave(first, 10)
    assert list(replica.running) == [large]
    behind = replica.enter()
    replica.leave(large, 10)
    assert list(replica.running) == [behind]


def test_one_who_gives_up_leaves_no_place_behind_whether_it_waits_or_runs():
    replica = Replica(max_live=1)
    running, waiting, last = (replica.enter() for _ in range(3))
    replica.leave(waiting)
    assert replica.admission.num_queued == 1
    replica.leave(running)
    assert list(replica.running) == [last]
    replica.leave(last)
    assert (replica.admission.num_queued, replica.selector.num_live) == (0, 0)


def test_a_full_queue_refuses_and_says_when_to_come_back():
    replica = Replica(max_live=1, max_requests=3)
    for _ in range(4):
        replica.enter()
    with pytest.raises(OverloadedError) as caught:
        replica.enter()
    assert "3 requests wait" in caught.value.message
    assert caught.value.retry_after_s >= 1
    assert replica.admission.num_queued == 3, "who was refused is not in it"
    replica.end_oldest()
    replica.enter()


def test_without_a_queue_only_what_can_start_is_taken():
    replica = Replica(max_live=1, max_requests=0)
    replica.enter()
    with pytest.raises(OverloadedError):
        replica.enter()


def test_a_queue_is_full_of_tokens_too():
    replica = Replica(max_live=1, max_tokens=100)
    replica.enter()
    for _ in range(5):
        replica.enter(num_prompt=10, max_tokens=10)
    with pytest.raises(OverloadedError):
        replica.enter(num_prompt=10, max_tokens=10)


def test_a_request_that_is_larger_than_the_queue_may_wait_alone():
    replica = Replica(max_live=1, max_tokens=100)
    first, large = replica.enter(), replica.enter(num_prompt=5000)
    with pytest.raises(OverloadedError):
        replica.enter()
    replica.leave(first, 10)
    assert list(replica.running) == [large]


def test_a_tenant_that_floods_leaves_room_in_the_queue_for_others():
    replica = Replica(max_live=1, max_requests=100)
    replica.enter("flood")
    num_taken = 0
    with pytest.raises(OverloadedError):
        for _ in range(200):
            replica.enter("flood")
            num_taken += 1
    assert num_taken == 50
    quiet = [replica.enter("quiet") for _ in range(10)]
    replica.end_oldest()
    assert next(iter(replica.running)) == quiet[0], "its turn comes before the flood"


def test_who_waits_is_served_by_tokens_and_shares():
    replica = Replica(max_live=1, max_requests=10_000, max_tokens=1 << 30)
    replica.enter("x")
    for _ in range(300):
        replica.enter("a", num_prompt=90)
        replica.enter("b", num_prompt=190)
        replica.enter("c", num_prompt=90, share=2.0)
    replica.end_oldest()
    tokens = {"a": 0, "b": 0, "c": 0}
    for _ in range(200):
        name = replica.end_oldest()
        tokens[name[0]] += 200 if name[0] == "b" else 100
    assert abs(tokens["a"] - tokens["b"]) <= 400
    assert abs(tokens["c"] - 2 * tokens["a"]) <= 400


def test_outputs_that_turn_out_longer_than_thought_count_for_the_next_turn():
    replica = Replica(max_live=1, max_requests=1000)
    first = replica.enter("x")
    for _ in range(20):
        replica.enter("a", max_tokens=1000)
        replica.enter("b", max_tokens=10)
    replica.leave(first, 10)
    turns = []
    for _ in range(12):
        name = next(iter(replica.running))
        replica.leave(name, 1000 if name[0] == "a" else 10)
        turns.append(name[0])
    assert turns.count("a") <= 2


def test_the_wait_that_is_told_follows_the_rate_of_late():
    replica = Replica(max_live=1, max_requests=10)
    names = [replica.enter(num_prompt=90) for _ in range(11)]
    for _ in range(60):
        replica.clock.now_s += 1.0
        replica.leave(names.pop(0), 10)
        names.append(replica.enter(num_prompt=90))
    with pytest.raises(OverloadedError) as caught:
        replica.enter()
    assert caught.value.retry_after_s == pytest.approx(5.0, rel=0.1), "half of ten, one a second"


def test_expected_output_is_what_outputs_were_and_never_above_the_limit():
    outputs = OutputEstimate()
    assert (outputs.of(10), outputs.of(10**6)) == (10, FIRST_OUTPUT_TOKENS)
    for _ in range(200):
        outputs.note(1000)
    assert outputs.of(10**6) == pytest.approx(1000, rel=0.01)


def test_whatever_comes_and_goes_all_end_and_nothing_is_left_counted():
    rng = random.Random(0)
    replica = Replica(num_ranks=3, max_live=3, num_blocks=30, max_requests=20, max_tokens=3000)
    num_refused = 0
    for _ in range(3000):
        if rng.random() < 0.55:
            try:
                replica.enter(rng.choice(["", "a", "b"]), num_prompt=rng.randrange(1, 40 * BLOCK))
            except OverloadedError:
                num_refused += 1
        elif replica.tickets:
            name = rng.choice(list(replica.tickets))
            replica.leave(name, rng.choice([None, 1, 10]) if name in replica.running else None)
        assert len(replica.running) + replica.admission.num_queued == len(replica.tickets)
        assert replica.running or not replica.admission.num_queued, "nobody waits for an idle rank"
    while replica.running:
        replica.end_oldest()
    assert num_refused > 100
    assert (replica.admission.num_queued, replica.selector.num_live) == (0, 0)
    assert replica.selector._num_blocks == [0, 0, 0]
