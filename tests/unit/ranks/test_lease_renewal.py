from __future__ import annotations

import asyncio
from collections import defaultdict

import pytest_asyncio

from gptoss_ray.errors import RankDiedError, UnavailableError
from gptoss_ray.ranks.lease_renewal import LeaseRenewal
from gptoss_ray.ranks.rank_epoch import RankEpoch
from gptoss_ray.ranks.rank_member import RankPulse
from gptoss_ray.ranks.recovery import RankId

LEASE_S = 0.05
FIRST, SECOND = RankId(0), RankId(1)


class Ranks:
    """Answer at once, unless they are told to be silent, dead or out of reach."""

    def __init__(self) -> None:
        self.states = defaultdict(lambda: RankEpoch(joined=1, prepared=1))
        self.silent: set[RankId] = set()
        self.failing: dict[RankId, Exception] = {}
        self.lost: list[RankId] = []
        self.pulses: list[RankPulse] = []
        self.num_calls: dict[RankId, int] = defaultdict(int)
        self.renewal = LeaseRenewal(self.renew, LEASE_S, self.pulses.append, self.lost.append)

    async def renew(self, rank, call, heard, epoch) -> RankPulse:
        self.num_calls[rank] += 1
        if rank in self.failing:
            raise self.failing[rank]
        while rank in self.silent:
            await asyncio.sleep(0.001)
        self.states[rank] = self.states[rank].renew(call, heard, epoch, self.now(), LEASE_S)
        return RankPulse(1, True)

    def now(self) -> float:
        return asyncio.get_running_loop().time()

    def may_emit(self, rank) -> bool:
        return self.states[rank].may_emit(self.now())

    async def until(self, condition) -> None:
        async def wait() -> None:
            while not condition():
                await asyncio.sleep(0.001)

        await asyncio.wait_for(wait(), 10)


@pytest_asyncio.fixture
async def ranks():
    ranks = Ranks()
    running = asyncio.create_task(ranks.renewal.run())
    ranks.renewal.follow([FIRST, SECOND])
    yield ranks
    running.cancel()
    await asyncio.wait((running,))


async def test_members_of_the_granted_epoch_may_emit_and_go_on_to(ranks):
    assert not ranks.may_emit(FIRST)
    ranks.renewal.grant(1, frozenset({FIRST}))
    await ranks.until(lambda: ranks.may_emit(FIRST))
    for _ in range(5):
        until = ranks.states[FIRST].lease_until
        await ranks.until(lambda until=until: ranks.states[FIRST].lease_until > until)
    assert not ranks.states[SECOND].lease_epoch
    assert ranks.pulses[0] == RankPulse(1, True)


async def test_a_grant_does_not_wait_for_the_next_tick(ranks):
    await ranks.until(lambda: len(ranks.pulses) >= 4)
    num_calls = dict(ranks.num_calls)
    ranks.renewal.grant(1, frozenset({FIRST, SECOND}))
    for _ in range(3):
        await asyncio.sleep(0)
    assert all(ranks.num_calls[rank] > num_calls[rank] for rank in (FIRST, SECOND))


async def test_a_silent_rank_is_lost_when_its_lease_is_over_and_called_no_more(ranks):
    ranks.renewal.grant(1, frozenset({FIRST, SECOND}))
    await ranks.until(lambda: ranks.may_emit(SECOND))
    ranks.silent.add(SECOND)
    await ranks.until(lambda: ranks.lost)
    assert not ranks.may_emit(SECOND)
    num_calls = ranks.num_calls[SECOND]
    await ranks.until(lambda: ranks.num_calls[FIRST] > 20)
    assert ranks.lost == [SECOND]
    assert ranks.num_calls[SECOND] == num_calls


async def test_where_nobody_is_heard_nobody_is_blamed(ranks):
    await ranks.until(lambda: len(ranks.pulses) >= 4)
    ranks.silent |= {FIRST, SECOND}
    await asyncio.sleep(4 * LEASE_S)
    assert ranks.lost == []
    ranks.silent.remove(FIRST)
    await ranks.until(lambda: ranks.lost == [SECOND])


async def test_a_dead_rank_is_lost_at_once(ranks):
    ranks.failing[FIRST] = RankDiedError("rank 0 died", rank=FIRST)
    await ranks.until(lambda: ranks.lost == [FIRST])


async def test_a_rank_out_of_reach_is_called_again_and_lost_if_that_lasts(ranks):
    await ranks.until(lambda: len(ranks.pulses) >= 4)
    ranks.failing[FIRST] = UnavailableError("cannot be reached")
    num_calls = ranks.num_calls[FIRST]
    await ranks.until(lambda: ranks.lost == [FIRST])
    assert ranks.num_calls[FIRST] > num_calls + 2
