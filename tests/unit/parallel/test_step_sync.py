from __future__ import annotations

import random

import pytest

from gptoss_ray.config import ParallelConfig
from gptoss_ray.errors import GroupBrokenError
from gptoss_ray.parallel.step_sync import (
    GroupStepSync,
    LocalStepSync,
    StepAgreement,
    StepDemand,
    decode,
    encode,
)
from tests.support.thread_collectives import ThreadCollectives, run_ranks, thread_group

CONFIG = ParallelConfig(max_prefill_delay_steps=2, max_prefill_tokens_per_step=16, min_decode_steps=1)
IDLE = StepDemand(0, 0)


class Link:
    """A rank's link to one group after another."""

    def __init__(self, collectives: ThreadCollectives, epoch: int = 1) -> None:
        self.collectives = collectives
        self.epoch = epoch


def agreements(*demands_of_ranks: list[StepDemand], config: ParallelConfig = CONFIG) -> list[StepAgreement]:
    """What ranks agree on, step by step; the same on each of them."""

    def agree(collectives: ThreadCollectives) -> list[StepAgreement]:
        sync = GroupStepSync(Link(collectives), config)
        return [sync.agree(demand) for demand in demands_of_ranks[collectives.rank]]

    first, *others = run_ranks(len(demands_of_ranks), agree)
    assert all(other == first for other in others)
    return first


def test_a_rank_alone_gets_what_it_wants():
    sync = LocalStepSync()
    assert sync.heartbeat_s is None
    assert sync.agree(StepDemand(3, 5000, staged_placement=2)) == StepAgreement(True, 5003, 5000, 2)
    assert not sync.agree(IDLE).runs


def test_a_rank_alone_that_leaves_ends_at_once_even_with_work():
    agreement = LocalStepSync().agree(StepDemand(3, 0, is_leaving=True))
    assert agreement.ends
    assert not agreement.runs


def test_a_group_meets_at_its_heartbeat():
    assert GroupStepSync(Link(thread_group(1)[0]), ParallelConfig(heartbeat_s=0.2)).heartbeat_s == 0.2


def test_one_rank_with_work_makes_all_run_a_step():
    idle, work = IDLE, StepDemand(2, 0)
    assert [each.runs for each in agreements([idle, idle, idle], [idle, work, idle])] == [False, True, False]


def test_the_most_rows_of_any_rank_are_known_to_all():
    assert agreements([StepDemand(7, 0)], [StepDemand(2, 9)], [StepDemand(0, 11)])[0] == StepAgreement(
        runs=True, max_num_tokens=7, max_prefill_tokens=0, placement=0, is_urgent=True
    )
    assert agreements([StepDemand(7, 4)], [StepDemand(2, 9)])[0] == StepAgreement(
        runs=True, max_num_tokens=16, max_prefill_tokens=9, placement=0, is_urgent=True
    )


def test_prompts_of_some_ranks_wait_while_others_decode_and_go_together_when_all_have_one():
    decoding, prompt = StepDemand(1, 0), StepDemand(0, 40)
    alone = agreements([decoding] * 4, [prompt] * 4)
    assert [each.max_prefill_tokens for each in alone] == [0, 0, 16, 0]
    together = agreements([decoding, StepDemand(1, 3)], [prompt] * 2)
    assert [each.max_prefill_tokens for each in together] == [0, 16]


def test_a_placement_is_used_once_every_rank_has_staged_it():
    old, new = StepDemand(1, 0, staged_placement=3), StepDemand(1, 0, staged_placement=4)
    assert [each.placement for each in agreements([new, new], [old, new])] == [3, 4]


def test_a_group_ends_when_every_rank_was_asked_to_leave():
    leaving = StepDemand(0, 0, is_leaving=True)
    assert [each.ends for each in agreements([leaving, leaving], [IDLE, leaving])] == [False, True]


def test_a_rank_that_leaves_keeps_in_step_until_all_do():
    leaving, work = StepDemand(0, 0, is_leaving=True), StepDemand(1, 0)
    first = agreements([leaving], [work])[0]
    assert first.runs
    assert not first.ends


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_an_agreement_is_one_collective_of_a_width_that_does_not_depend_on_the_ranks(world_size):
    widths: list[int] = []

    class Measured(ThreadCollectives):
        def all_reduce_max(self, values: list[int]) -> list[int]:  # type: ignore[override]
            widths.append(len(values))
            return super().all_reduce_max(values)

    def agree(collectives: ThreadCollectives) -> int:
        collectives.__class__ = Measured
        GroupStepSync(Link(collectives), CONFIG).agree(IDLE)
        return collectives.num_calls

    assert run_ranks(world_size, agree) == [1] * world_size
    assert set(widths) == {len(encode(IDLE, epoch=1))}


def test_ranks_of_two_epochs_do_not_step_together():
    def agree(collectives: ThreadCollectives) -> None:
        sync = GroupStepSync(Link(collectives, epoch=5 + collectives.rank), CONFIG)
        with pytest.raises(GroupBrokenError, match="epochs 5 and 6"):
            sync.agree(IDLE)

    run_ranks(2, agree)


def test_an_older_epoch_is_noticed_whatever_else_the_ranks_want():
    vectors = [encode(StepDemand(9, 9, 9), epoch=1), encode(IDLE, epoch=2)]
    with pytest.raises(GroupBrokenError, match="epochs 1 and 2"):
        decode([max(column) for column in zip(*vectors, strict=True)])


def test_a_new_epoch_forgets_how_long_prompts_have_waited_as_a_rank_that_joins_cannot_know():
    earlier, later = thread_group(2), thread_group(2)

    def agree(collectives: ThreadCollectives) -> list[int]:
        rank = collectives.rank
        link = Link(earlier[rank])
        sync = GroupStepSync(link, CONFIG)
        demand = StepDemand(0, 40) if rank else StepDemand(1, 0)
        limits = [sync.agree(demand).max_prefill_tokens for _ in range(2)]
        link.collectives, link.epoch = later[rank], 2
        return limits + [sync.agree(demand).max_prefill_tokens for _ in range(3)]

    assert run_ranks(2, agree) == [[0, 0, 0, 0, 16]] * 2


@pytest.mark.parametrize("seed", range(5))
def test_ranks_with_random_demands_agree_in_every_step(seed):
    rng = random.Random(seed)
    ranks = [
        [
            StepDemand(rng.choice([0, 0, 1, 5]), rng.choice([0, 0, 3, 40]), staged_placement=rng.randrange(3))
            for _ in range(60)
        ]
        for _ in range(3)
    ]
    for step, agreement in enumerate(agreements(*ranks)):
        demands = [demands[step] for demands in ranks]
        assert agreement.runs == any(demand.has_work for demand in demands)
        assert agreement.placement == min(demand.staged_placement for demand in demands)
        for demand in demands:
            prompt_tokens = min(demand.num_prefill_tokens, agreement.max_prefill_tokens)
            assert demand.num_decode_tokens + prompt_tokens <= agreement.max_num_tokens
