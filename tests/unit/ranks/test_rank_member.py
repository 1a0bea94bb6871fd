from __future__ import annotations

import asyncio
import threading

import pytest
import pytest_asyncio

from gptoss_ray.errors import CheckpointError, GroupBrokenError
from gptoss_ray.parallel.membership import GroupMembership
from gptoss_ray.ranks import rank_experts
from gptoss_ray.ranks.epoch_change import EpochChange
from gptoss_ray.ranks.rank_member import RankMember
from gptoss_ray.ranks.step_loop import StepLoop
from tests.support.counting_engine import CountingEngine

LEASE_S = 2.0


class FakeLink:
    """A link whose group forms at once, unless it is told to wait or to fail."""

    number = 1

    def __init__(self) -> None:
        self.happened: list[object] = []
        self.epoch = 0
        self.may_join = threading.Event()
        self.may_join.set()
        self.error: Exception | None = None

    def join(self, membership, timeout_s=None):
        assert self.may_join.wait(10)
        if self.error is not None:
            raise self.error
        self.happened.append(membership.epoch)
        self.epoch = membership.epoch

    def leave(self):
        self.happened.append("left")


class Rank:
    def __init__(self) -> None:
        self.now = 100.0
        self.link, self.engine = FakeLink(), CountingEngine()
        self.member = RankMember("checkpoint", self.link, self.engine, clock=lambda: self.now)
        self.loop = StepLoop(self.engine, lambda batches: None, epoch_wait_s=60, is_stopped=True)
        self.loop.start()

    async def join(self, epoch: int) -> None:
        await self.member.join(epoch, self.loop)


def membership(epoch: int) -> GroupMembership:
    return GroupMembership("g", epoch, ("a", "a"), "127.0.0.1", 1, (1, 2))


def change(epoch: int, *, leaves: bool = False) -> EpochChange:
    return EpochChange(membership(epoch), (), version=10 * epoch, leaves=leaves)


@pytest_asyncio.fixture
async def rank(monkeypatch):
    def with_placements(transformer, checkpoint, placements, rank, hosts):
        return f"{transformer}, then rank {rank} of {len(hosts)}"

    monkeypatch.setattr(rank_experts, "with_placements", with_placements)
    rank = Rank()
    await rank.member.join_first(membership(1))
    yield rank
    rank.link.may_join.set()
    await asyncio.to_thread(rank.loop.stop)


async def test_an_epoch_is_joined_with_the_experts_prepared_for_it(rank):
    await rank.member.prepare(change(2))
    assert rank.engine.placement == 0
    await rank.join(2)
    assert (rank.member.epoch, rank.link.happened) == (2, [1, 2])
    assert (rank.engine.placement, rank.engine.transformer) == (20, "the first epoch's, then rank 0 of 2")


async def test_steps_under_way_are_dropped_while_the_wires_of_their_epoch_are_there(rank):
    rank.engine.on_drop = lambda: rank.link.happened.append("dropped")
    await rank.member.prepare(change(2))
    await rank.join(2)
    assert rank.link.happened == [1, "dropped", 2]


async def test_a_broken_epoch_is_left_before_anything_is_read(rank):
    await rank.member.prepare(change(2, leaves=True))
    assert rank.link.happened == [1, "left"]


async def test_experts_read_for_an_epoch_that_never_came_are_not_read_again(rank):
    await rank.member.prepare(change(2))
    await rank.member.prepare(change(3))
    await rank.join(3)
    assert rank.engine.transformer == "the first epoch's, then rank 0 of 2, then rank 0 of 2"


async def test_orders_out_of_date_are_refused(rank):
    await rank.member.prepare(change(3))
    for order in (rank.member.prepare(change(2)), rank.join(2), rank.member.prepare(change(1))):
        with pytest.raises(GroupBrokenError):
            await order
    await rank.join(3)
    assert rank.link.happened == [1, 3]


async def test_a_rank_told_of_a_later_epoch_while_it_joins_leaves_what_it_joined(rank):
    await rank.member.prepare(change(2))
    rank.link.may_join.clear()
    joining = asyncio.create_task(rank.join(2))
    await asyncio.sleep(0.01)
    await rank.member.prepare(change(3))
    rank.link.may_join.set()
    with pytest.raises(GroupBrokenError, match="epoch 3 is prepared"):
        await joining
    assert rank.link.happened == [1, 2, "left"]
    assert rank.member.epoch == 1
    await rank.join(3)
    assert rank.member.epoch == 3


async def test_a_group_that_does_not_form_is_an_error_and_the_next_may(rank):
    await rank.member.prepare(change(2))
    rank.link.error = GroupBrokenError("nobody came")
    with pytest.raises(GroupBrokenError, match="nobody came"):
        await rank.join(2)
    assert (rank.member.epoch, rank.engine.placement) == (1, 0)
    rank.link.error = None
    await rank.member.prepare(change(3))
    await rank.join(3)
    assert rank.engine.placement == 30


async def test_a_checkpoint_that_cannot_be_read_is_an_error_of_the_preparation(rank, monkeypatch):
    def fail(*args):
        raise CheckpointError("it is gone")

    monkeypatch.setattr(rank_experts, "with_placements", fail)
    with pytest.raises(CheckpointError, match="it is gone"):
        await rank.member.prepare(change(2))


async def test_nothing_leaves_a_rank_without_a_lease_of_its_epoch(rank):
    emitting = asyncio.create_task(rank.member.covered())
    rank.member.renew(1, 0, 1, LEASE_S)
    await asyncio.sleep(0.01)
    assert not emitting.done()
    rank.member.renew(2, 1, 1, LEASE_S)
    await asyncio.wait_for(emitting, 10)
    rank.now += LEASE_S
    late = asyncio.create_task(rank.member.covered())
    await rank.member.prepare(change(2))
    await rank.join(2)
    rank.member.renew(3, 2, 1, LEASE_S)
    await asyncio.sleep(0.01)
    assert not late.done()
    rank.member.renew(4, 3, 2, LEASE_S)
    await asyncio.wait_for(late, 10)


async def test_who_waits_for_the_end_of_an_epoch_learns_of_it_also_late(rank):
    waiting = asyncio.create_task(rank.member.wait_broken(1))
    await asyncio.sleep(0.01)
    assert not waiting.done()
    rank.member.note_broken(1)
    await asyncio.wait_for(waiting, 10)
    await asyncio.wait_for(rank.member.wait_broken(1), 10)
    await rank.member.prepare(change(2))
    await rank.join(2)
    await asyncio.wait_for(rank.member.wait_broken(1), 10)
    still = asyncio.create_task(rank.member.wait_broken(2))
    await asyncio.sleep(0.01)
    assert not still.done()
    still.cancel()
