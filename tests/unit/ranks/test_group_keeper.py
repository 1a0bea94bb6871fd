"""The keeper over ranks of a script: what they are told, and what becomes of those that do not do it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from gptoss_ray.checkpoint.synthetic import tiny_config
from gptoss_ray.config import ParallelConfig, ServedModelConfig
from gptoss_ray.errors import CheckpointError, GroupBrokenError, RankDiedError
from gptoss_ray.ranks import group_keeper
from gptoss_ray.ranks.group_keeper import GroupKeeper
from gptoss_ray.ranks.rank_facts import RankFacts
from gptoss_ray.ranks.rank_member import RankPulse
from gptoss_ray.ranks.recovery import RankId

MODEL = tiny_config(num_layers=2)
RANKS = FIRST, SECOND, THIRD = [RankId(number) for number in range(3)]


def facts(fingerprint: str = "one kind") -> RankFacts:
    return RankFacts("here", "127.0.0.1", 1 << 40, fingerprint, "checkpoint", is_native=False)


class Ranks:
    """Do at once what they are told; a method named in `failing` raises, one in `hanging` never ends."""

    def __init__(self, **parallel: object) -> None:
        fields = {"num_ranks": 3, "lease_s": 0.2} | parallel
        config = ServedModelConfig(
            name="m", checkpoint="c", parallel=ParallelConfig.model_validate(fields), startup_timeout_s=0.5
        )
        self.asked: list[tuple[RankId, str, tuple[object, ...]]] = []
        self.failing: dict[tuple[RankId, str], Exception] = {}
        self.hanging: set[tuple[RankId, str]] = set()
        self.fingerprints: list[str] = []
        self.started: list[RankId] = []
        self.ended: list[RankId] = []
        self.epochs = dict.fromkeys(RANKS, 1)
        self.broken: dict[int, asyncio.Event] = {}
        self.dead: dict[RankId, asyncio.Event] = {}
        self.may_start = asyncio.Event()
        self.may_start.set()
        self.keeper = GroupKeeper(config, MODEL, self, "g", dict.fromkeys(RANKS, facts()))

    async def ask(self, rank, method, *args):
        self.asked.append((rank, method, args))
        dead = self._dead(rank)
        if (rank, method) in self.hanging:
            await dead.wait()
        if dead.is_set():
            raise RankDiedError(f"rank {rank} died", rank=rank)
        if (rank, method) in self.failing:
            raise self.failing.pop((rank, method))
        answer = getattr(self, method, None)
        return await answer(rank, *args) if answer is not None else None

    async def start(self, rank):
        await self.may_start.wait()
        self.started.append(rank)
        return facts(self.fingerprints.pop(0) if self.fingerprints else "one kind")

    def end(self, rank):
        self.ended.append(rank)
        self.die(rank)

    def die(self, rank):
        self._dead(rank).set()

    def _dead(self, rank) -> asyncio.Event:
        return self.dead.setdefault(rank, asyncio.Event())

    async def free_store_port(self, rank, host):
        return 1234

    async def join_epoch(self, rank, epoch):
        self.epochs[rank] = epoch

    async def renew_lease(self, rank, call, heard, epoch):
        return RankPulse(self.epochs.get(rank, 0), True)

    async def wait_broken(self, rank, epoch):
        broken = self.broken.setdefault(epoch, asyncio.Event())
        waiting = [asyncio.ensure_future(event.wait()) for event in (broken, self._dead(rank))]
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        if self._dead(rank).is_set():
            raise RankDiedError(f"rank {rank} died", rank=rank)

    def changes(self, epoch: int):
        """Return what each rank was told to prepare for an epoch."""
        orders = [(rank, args[0]) for rank, method, args in self.asked if method == "prepare_epoch"]
        return {rank: change for rank, change in orders if change.membership.epoch == epoch}

    async def until(self, condition) -> None:
        async def wait() -> None:
            while not condition():
                await asyncio.sleep(0.001)

        await asyncio.wait_for(wait(), 20)

    async def until_serving(self, *ranks: RankId) -> None:
        await self.until(lambda: self.keeper.is_serving and self.keeper.open_ranks == sorted(ranks))


@pytest.fixture(autouse=True)
def replaced_at_once(monkeypatch):
    monkeypatch.setattr(group_keeper, "REPLACE_AFTER_S", 0.0)


@pytest_asyncio.fixture
async def keep() -> AsyncIterator:
    tasks: list[asyncio.Task[None]] = []

    def keep(**parallel: object) -> Ranks:
        ranks = Ranks(**parallel)
        tasks.append(asyncio.create_task(ranks.keeper.run()))
        return ranks

    yield keep
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)


async def test_a_dead_rank_is_left_out_at_once_and_replaced(keep):
    ranks = keep()
    ranks.may_start.clear()
    await ranks.until(lambda: len(ranks.broken) == 1)
    ranks.die(SECOND)
    await ranks.until_serving(FIRST, THIRD)
    healed = ranks.changes(2)
    assert set(healed) == {FIRST, THIRD}
    assert all(change.leaves and change.membership.numbers == (0, 2) for change in healed.values())
    assert all(
        set(sum(layer.slots, ())) == set(range(MODEL.num_experts)) for layer in healed[FIRST].placements
    )
    ranks.may_start.set()
    newcomer = RankId(1, 1)
    await ranks.until_serving(FIRST, newcomer, THIRD)
    whole = ranks.changes(3)
    assert not any(change.leaves for change in whole.values())
    assert whole[FIRST].version > healed[FIRST].version > 0
    assert (newcomer, "warm_up", ()) in ranks.asked
    assert ranks.ended == [SECOND]
    told = [(event.kind, event.epoch, event.detail) for event in ranks.keeper.events.latest]
    assert told == [
        ("epoch_granted", 1, "members 0,1,2"),
        ("epoch_broke", 1, "RankLost"),
        ("rank_lost", 2, "rank 1"),
        ("epoch_granted", 2, "members 0,2"),
        ("epoch_granted", 3, "members 0,1.1,2"),
        ("rank_replaced", 3, "rank 1.1"),
    ]
    assert ranks.keeper.events.counts["rank_lost"] == 1
    assert ranks.keeper.members == [FIRST, newcomer, THIRD]
    healing_s = ranks.keeper.healing_s
    assert healing_s > 0
    await asyncio.sleep(0.01)
    assert ranks.keeper.healing_s == healing_s


async def test_a_replacement_takes_nothing_from_the_survivors_before_they_serve_again(keep):
    ranks, may_prepare = keep(), asyncio.Event()

    async def prepare_epoch(rank, change):
        await may_prepare.wait()

    ranks.prepare_epoch = prepare_epoch
    await ranks.until(lambda: len(ranks.broken) == 1)
    ranks.die(SECOND)
    await ranks.until(lambda: set(ranks.changes(2)) == {FIRST, THIRD})
    await asyncio.sleep(0.05)
    assert not ranks.started
    may_prepare.set()
    await ranks.until_serving(FIRST, RankId(1, 1), THIRD)


async def test_an_epoch_that_breaks_without_a_loss_is_formed_again_by_all(keep):
    ranks = keep()
    await ranks.until(lambda: 1 in ranks.broken)
    ranks.broken[1].set()
    await ranks.until(lambda: ranks.keeper.epoch == 2 and ranks.keeper.is_serving)
    assert set(ranks.changes(2)) == set(RANKS)
    assert ranks.ended == []


async def test_a_rank_that_hangs_where_nothing_can_interrupt_it_is_ended(keep, monkeypatch):
    monkeypatch.setattr(group_keeper, "JOIN_TIMEOUT_S", 0.1)
    monkeypatch.setattr(group_keeper, "JOIN_MARGIN_S", 0.0)
    ranks = keep()
    ranks.hanging.add((SECOND, "join_epoch"))
    await ranks.until(lambda: 1 in ranks.broken)
    ranks.broken[1].set()
    await ranks.until_serving(FIRST, RankId(1, 1), THIRD)
    assert set(ranks.ended) == {SECOND}


async def test_an_epoch_that_does_not_form_is_tried_again(keep):
    ranks = keep()
    ranks.failing[THIRD, "join_epoch"] = GroupBrokenError("nobody came")
    await ranks.until(lambda: 1 in ranks.broken)
    ranks.broken[1].set()
    await ranks.until(lambda: ranks.keeper.epoch == 3 and ranks.keeper.is_serving)
    assert ranks.ended == []


async def test_a_replacement_that_computes_otherwise_is_not_taken_in(keep, monkeypatch):
    monkeypatch.setattr(group_keeper, "MAX_RESTART_DELAY_S", 0.01)
    ranks = keep()
    ranks.fingerprints = ["another kind"]
    ranks.die(FIRST)
    await ranks.until_serving(RankId(0, 2), SECOND, THIRD)
    assert ranks.started == [RankId(0, 1), RankId(0, 2)]
    assert ranks.ended == [FIRST, RankId(0, 1)]


async def test_a_replacement_that_fails_its_first_request_is_given_no_other(keep, monkeypatch):
    monkeypatch.setattr(group_keeper, "MAX_RESTART_DELAY_S", 0.01)
    ranks = keep()
    ranks.failing[RankId(0, 1), "warm_up"] = RuntimeError("no")
    ranks.die(FIRST)
    await ranks.until_serving(RankId(0, 2), SECOND, THIRD)


async def test_a_newcomer_whose_epoch_breaks_in_its_first_request_is_not_given_a_second_one(keep):
    ranks, newcomer, may_end = keep(), RankId(1, 1), asyncio.Event()

    async def warm_up(rank):
        await may_end.wait()

    ranks.warm_up = warm_up
    ranks.die(SECOND)
    await ranks.until(lambda: (newcomer, "warm_up", ()) in ranks.asked)
    ranks.broken[3].set()
    await ranks.until(lambda: ranks.keeper.events.counts["epoch_granted"] == 4)
    may_end.set()
    await ranks.until_serving(FIRST, newcomer, THIRD)
    assert ranks.asked.count((newcomer, "warm_up", ())) == 1


@pytest.mark.parametrize("parallel", [{"healing": "restart"}, {"tolerated_rank_losses": 0}])
async def test_a_group_that_cannot_heal_ends_its_ranks(keep, parallel):
    ranks = keep(**parallel)
    ranks.die(FIRST)
    await ranks.until(lambda: ranks.keeper.failure is not None)
    assert set(ranks.ended) == set(RANKS)
    assert ranks.keeper.open_ranks == []
    assert ranks.started == []


async def test_a_survivor_that_cannot_read_its_experts_ends_the_group(keep):
    ranks = keep()
    ranks.failing[THIRD, "prepare_epoch"] = CheckpointError("it is gone")
    ranks.die(FIRST)
    await ranks.until(lambda: ranks.keeper.failure is not None)
    assert ranks.keeper.failure == "rank 2 could not read its experts"


async def test_a_preparation_without_end_ends_the_group(keep):
    ranks = keep()
    ranks.hanging.add((THIRD, "prepare_epoch"))
    ranks.die(FIRST)
    await ranks.until(lambda: ranks.keeper.failure is not None)
    assert ranks.keeper.failure == "preparing epoch 2 takes too long"


async def test_a_rank_that_its_callers_found_dead_is_given_no_other_request(keep):
    ranks = keep()
    await ranks.until_serving(*RANKS)
    ranks.dead.setdefault(SECOND, asyncio.Event()).set()
    ranks.keeper.note_died(SECOND)
    assert ranks.keeper.open_ranks == [FIRST, THIRD]


async def test_experts_follow_the_load_only_while_no_rank_is_missing(keep):
    ranks = keep(num_spare_experts=1, rebalance_interval_s=0.01)

    def num_asked() -> int:
        return sum(method == "take_expert_load" for _, method, _ in ranks.asked)

    no_load = [[0] * MODEL.num_experts] * MODEL.num_layers

    async def take_expert_load(rank):
        return no_load

    ranks.take_expert_load = take_expert_load
    await ranks.until(lambda: num_asked() >= 3)
    ranks.may_start.clear()
    ranks.die(FIRST)
    await ranks.until_serving(SECOND, THIRD)
    before = num_asked()
    await asyncio.sleep(0.1)
    assert num_asked() == before
    ranks.may_start.set()
    await ranks.until_serving(RankId(0, 1), SECOND, THIRD)
    await ranks.until(lambda: num_asked() > before + 3)
