from __future__ import annotations

from typing import NamedTuple

import pytest

from gptoss_ray.errors import GroupBrokenError
from gptoss_ray.ranks.rank_epoch import RankEpoch

LEASE_S = 2.0
LAST = 6
MAX_CALLS = 3


def test_epochs_are_prepared_and_joined_once_and_in_order():
    rank = RankEpoch().prepare(1).join(1).prepare(2).prepare(3)
    with pytest.raises(GroupBrokenError, match="epoch 2 comes late, after 3"):
        rank.prepare(2)
    with pytest.raises(GroupBrokenError, match="told to join epoch 2, but epoch 3 is prepared and 1 joined"):
        rank.join(2)
    rank = rank.join(3)
    for again in (rank.prepare, rank.join):
        with pytest.raises(GroupBrokenError):
            again(3)


def test_a_lease_covers_the_epoch_it_was_granted_for_until_it_is_over():
    rank = RankEpoch(joined=1, prepared=1).renew(1, 0, 1, 10.0, LEASE_S)
    assert not rank.may_emit(10.0)  # nobody has heard of it yet
    rank = rank.renew(2, 1, 1, 11.0, LEASE_S)
    assert rank.may_emit(11.9)
    assert not rank.may_emit(12.0)
    assert not rank.prepare(2).join(2).may_emit(11.0)


@pytest.mark.parametrize("epoch", [0, 2])
def test_a_call_that_grants_another_epoch_or_none_renews_nothing(epoch):
    rank = RankEpoch(joined=1, prepared=1).renew(1, 0, 1, 10.0, LEASE_S).renew(2, 1, epoch, 11.0, LEASE_S)
    assert not rank.may_emit(11.0)


class World(NamedTuple):
    """A rank, and what its replica knows of it: `heard_at` is when it last heard an answer, `heard` which."""

    rank: RankEpoch
    now: int = 0
    num_calls: int = 0
    heard: int = 0
    heard_at: int = 0
    calls: frozenset[tuple[int, int]] = frozenset()
    answers: frozenset[int] = frozenset()
    arrived: frozenset[int] = frozenset()


def moves(world: World):
    """Time passes, a call is made, and calls and answers arrive: in any order, late, twice, or never."""
    if world.now < LAST:
        yield world._replace(now=world.now + 1)
    if world.num_calls < MAX_CALLS:
        call = (world.num_calls + 1, world.heard)
        yield world._replace(num_calls=call[0], calls=world.calls | {call})
    for number, heard in world.calls:
        rank = world.rank.renew(number, heard, 1, float(world.now), LEASE_S)
        yield world._replace(rank=rank, answers=world.answers | {number}, arrived=world.arrived | {number})
    for answer in world.answers:
        if answer > world.heard:
            yield world._replace(heard=answer, heard_at=world.now)


def test_a_rank_not_heard_of_for_the_length_of_a_lease_may_not_emit_however_late_messages_come():
    seen, found = {World(RankEpoch(joined=1, prepared=1))}, []
    worlds = list(seen)
    num_with_lease = 0
    for world in worlds:  # which grows
        num_with_lease += world.rank.may_emit(world.now)
        if world.now >= world.heard_at + LEASE_S and world.rank.may_emit(world.now):
            found.append(world)
        for after in moves(world):
            if after not in seen:
                seen.add(after)
                worlds.append(after)
    assert not found
    assert num_with_lease > 100
