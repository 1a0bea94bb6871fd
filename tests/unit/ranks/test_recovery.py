from __future__ import annotations

from dataclasses import replace

import pytest

from gptoss_ray.ranks.rank_epoch import RankEpoch
from gptoss_ray.ranks.recovery import (
    MAX_FAILED_EPOCHS,
    EpochBroke,
    EpochInStep,
    GiveUp,
    Grant,
    Join,
    OrderDone,
    OrderFailed,
    Prepare,
    RankId,
    RankLost,
    Recovery,
    Replace,
    ReplacementLoaded,
    Stage,
    StageOverdue,
)
from tests.support.recovery_checker import NOW, Bounds, Checker, RankMachine, RecoveryViolationError


def decide(recovery, event):
    return recovery.after(event)


FAULTS = {
    "nothing": Bounds(3),
    "one of two ranks dies": Bounds(2, num_deaths=1),
    "one of three ranks dies": Bounds(3, num_deaths=1),
    "a rank dies that was one too many": Bounds(2, min_members=2, num_deaths=1),
    "a rank dies and messages come late": Bounds(2, num_deaths=1, has_late=True),
    "a rank stops, and perhaps wakes up": Bounds(2, num_hangs=1),
    "a step fails on a rank": Bounds(3, num_faults=1),
    "two steps fail": Bounds(2, num_faults=2),
    "a step fails and messages come late": Bounds(2, num_faults=1, has_late=True),
    "a step fails and a message is lost": Bounds(2, num_faults=1, num_losses=1),
    "a step fails and a message comes twice": Bounds(2, num_faults=1, num_copies=1),
    "a step fails and a rank dies": Bounds(2, num_faults=1, num_deaths=1),
}
MORE_FAULTS = {
    "two ranks die, replacements too": Bounds(2, num_deaths=2),
    "two of three ranks die": Bounds(3, num_deaths=2, has_replacements=False),
    "two of three ranks die where one may": Bounds(3, min_members=2, num_deaths=2, has_replacements=False),
    "one of three ranks dies and one stops": Bounds(3, num_deaths=1, num_hangs=1, has_replacements=False),
    "one of three ranks dies and a step fails": Bounds(3, num_deaths=1, num_faults=1, has_replacements=False),
    "two of four ranks die": Bounds(4, num_deaths=2, has_replacements=False),
    "two of three ranks die and messages come late": Bounds(
        3, num_deaths=2, has_late=True, has_replacements=False
    ),
    "two of three ranks stop": Bounds(3, num_hangs=2, has_replacements=False),
    "two ranks stop, replacements too": Bounds(2, num_hangs=2),
    "a rank stops and a message is lost": Bounds(2, num_hangs=1, num_losses=1),
    "one rank dies and one stops": Bounds(2, num_deaths=1, num_hangs=1),
    "one of three ranks stops": Bounds(3, num_hangs=1),
    "a rank dies and a message is lost": Bounds(2, num_deaths=1, num_losses=1),
    "a rank dies and a message comes twice": Bounds(2, num_deaths=1, num_copies=1),
    "a rank stops and a message comes twice": Bounds(2, num_hangs=1, num_copies=1),
    "a rank stops and a step fails": Bounds(2, num_hangs=1, num_faults=1),
}


@pytest.mark.parametrize("bounds", FAULTS.values(), ids=FAULTS)
def test_in_every_order_of_events_one_epoch_emits_and_all_ends_in_serving_or_is_given_up(bounds):
    assert Checker(decide, bounds).check() >= 5


@pytest.mark.chaos
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("bounds", MORE_FAULTS.values(), ids=MORE_FAULTS)
def test_the_same_holds_under_any_two_faults(bounds):
    assert Checker(decide, bounds).check() > 1000


# Machines with a fault, which the checker has to find


def granting_at_the_first_answer(recovery, event):
    after, orders = recovery.after(event)
    if isinstance(event, OrderDone) and after.stage is Stage.JOINING and event.stage is Stage.JOINING:
        after = replace(
            after,
            stage=Stage.SERVING,
            awaited=frozenset(),
            granted=after.epoch,
            granted_members=after.members,
        )
        return after, (Grant(after.epoch, after.members),)
    return after, orders


def joining_at_the_first_answer(recovery, event):
    if isinstance(event, OrderDone) and recovery.stage is Stage.PREPARING:
        recovery = replace(recovery, awaited=frozenset({event.rank}))
    return recovery.after(event)


def believing_any_epoch(recovery, event):
    if isinstance(event, OrderDone | OrderFailed | StageOverdue):
        event = replace(event, epoch=recovery.epoch)
    return recovery.after(event)


def deaf_while_healing(recovery, event):
    if isinstance(event, RankLost) and recovery.stage is not Stage.SERVING:
        return recovery, ()
    return recovery.after(event)


def deaf_to_broken_epochs(recovery, event):
    return (recovery, ()) if isinstance(event, EpochBroke) else recovery.after(event)


def blaming_the_first_rank(recovery, event):
    if isinstance(event, EpochBroke):
        event = RankLost(min(recovery.members))
    return recovery.after(event)


def never_taking_in(recovery, event):
    return (recovery, ()) if isinstance(event, ReplacementLoaded) else recovery.after(event)


class JoinsAnything(RankMachine):
    def prepare(self, state, epoch):
        return replace(state, prepared=epoch)

    def join(self, state, epoch):
        return replace(state, joined=epoch)


class EmitsInAnyEpoch(RankMachine):
    def may_emit(self, state):
        return state.lease_until > NOW


class EmitsWithoutALease(RankMachine):
    def may_emit(self, state):
        return True


DEATH, HANG = Bounds(2, num_deaths=1), Bounds(2, num_hangs=1)
LATE = Bounds(2, num_deaths=1, has_late=True)
MUTANTS = {
    "a replica that grants leases when the first rank has joined": (
        granting_at_the_first_answer,
        RankMachine,
        DEATH,
    ),
    "a replica that has ranks join before all have prepared": (
        joining_at_the_first_answer,
        RankMachine,
        Bounds(2, num_faults=1),
    ),
    "a replica that takes answers of any epoch": (believing_any_epoch, RankMachine, LATE),
    "a replica that hears of no death while it heals": (deaf_while_healing, RankMachine, DEATH),
    "a replica that hears of no broken epoch": (
        deaf_to_broken_epochs,
        RankMachine,
        Bounds(2, num_faults=1),
    ),
    "a replica that replaces a rank which may still emit": (blaming_the_first_rank, RankMachine, HANG),
    "a replica that never takes the replacement in": (never_taking_in, RankMachine, DEATH),
    "a rank that takes orders of any epoch": (decide, JoinsAnything, LATE),
    "a rank that emits with the lease of another epoch": (
        decide,
        EmitsInAnyEpoch,
        Bounds(2, num_faults=1),
    ),
    "a rank that emits without a lease": (decide, EmitsWithoutALease, HANG),
}


@pytest.mark.parametrize(("mutant", "machine", "bounds"), MUTANTS.values(), ids=MUTANTS)
def test_the_checker_finds_what_is_wrong_with(mutant, machine, bounds):
    with pytest.raises(RecoveryViolationError):
        Checker(mutant, bounds, machine()).check()


# The machine, move by move

FIRST, SECOND, THIRD = (RankId(number) for number in range(3))


def run(recovery, *events):
    """Return the state after the last event, and the orders of all."""
    orders = []
    for event in events:
        recovery, found = recovery.after(event)
        orders += found
    return recovery, orders


def done(recovery, stage):
    return [OrderDone(rank, recovery.epoch, stage) for rank in sorted(recovery.members)]


def healed(recovery):
    """Let all members answer both stages."""
    recovery, _ = run(recovery, *done(recovery, Stage.PREPARING))
    return run(recovery, *done(recovery, Stage.JOINING))


def test_a_lost_rank_is_replaced_and_the_others_form_the_next_epoch_at_once():
    recovery, orders = run(Recovery.of(3, 2), RankLost(FIRST))
    assert orders == [Replace(FIRST), Prepare(SECOND, 2, leaves=True), Prepare(THIRD, 2, leaves=True)]
    recovery, orders = run(recovery, *done(recovery, Stage.PREPARING))
    assert orders == [Join(SECOND, 2), Join(THIRD, 2)]
    recovery, orders = run(recovery, *done(recovery, Stage.JOINING))
    assert orders == [Grant(2, frozenset({SECOND, THIRD}))]
    assert recovery.stage is Stage.SERVING


def test_a_replacement_waits_until_the_survivors_are_in_step_and_joins_without_stopping_them_before():
    recovery, _ = run(Recovery.of(2, 1), RankLost(FIRST), ReplacementLoaded(FIRST.next()))
    recovery, orders = healed(recovery)
    assert orders == [Grant(2, frozenset({SECOND}))]
    recovery, orders = run(recovery, EpochInStep(2))
    newcomer = RankId(0, 1)
    assert orders == [Prepare(newcomer, 3, leaves=False), Prepare(SECOND, 3, leaves=False)]
    assert recovery.granted == 2
    recovery, orders = healed(recovery)
    assert orders == [Grant(3, frozenset({newcomer, SECOND}))]


def test_a_newcomer_that_is_lost_before_anyone_left_for_it_stops_nobody():
    recovery, _ = run(Recovery.of(2, 1), RankLost(FIRST))
    recovery, _ = healed(recovery)
    recovery, _ = run(recovery, EpochInStep(2), ReplacementLoaded(FIRST.next()))
    assert recovery.stage is Stage.PREPARING
    recovery, orders = run(recovery, RankLost(FIRST.next()))
    assert orders == [Replace(FIRST.next())]
    assert (recovery.stage, recovery.granted, recovery.members) == (Stage.SERVING, 2, frozenset({SECOND}))


@pytest.mark.parametrize(
    "failed", [StageOverdue(3, Stage.PREPARING), OrderFailed(RankId(0, 1), 3, Stage.PREPARING)]
)
def test_a_newcomer_that_does_not_get_ready_is_replaced_while_the_others_serve(failed):
    recovery, _ = run(Recovery.of(2, 1), RankLost(FIRST))
    recovery, _ = healed(recovery)
    recovery, _ = run(recovery, EpochInStep(2), ReplacementLoaded(FIRST.next()))
    recovery, orders = run(recovery, failed)
    assert orders == [Replace(FIRST.next())]
    assert (recovery.stage, recovery.granted) == (Stage.SERVING, 2)


def test_newcomers_with_whom_no_epoch_can_be_formed_are_left_out_of_the_next():
    recovery, _ = run(Recovery.of(2, 1), RankLost(FIRST))
    recovery, _ = healed(recovery)
    recovery, _ = run(recovery, EpochInStep(2), ReplacementLoaded(FIRST.next()))
    recovery, _ = run(recovery, *done(recovery, Stage.PREPARING))
    recovery, orders = run(recovery, OrderFailed(SECOND, 3, Stage.JOINING))
    assert orders == [Replace(FIRST.next()), Prepare(SECOND, 4, leaves=True)]


@pytest.mark.parametrize(
    ("events", "reason"),
    [
        ([RankLost(FIRST), RankLost(SECOND)], "1 ranks are left where 2 are needed"),
        ([RankLost(FIRST), OrderFailed(SECOND, 2, Stage.PREPARING)], "rank 1 could not read its experts"),
        ([RankLost(FIRST), StageOverdue(2, Stage.PREPARING)], "preparing epoch 2 takes too long"),
    ],
)
def test_it_gives_up_when_too_few_are_left_or_they_cannot_go_on(events, reason):
    recovery, orders = run(Recovery.of(3, 2), *events)
    assert orders[-1] == GiveUp(reason)
    assert recovery.stage is Stage.GIVEN_UP
    assert run(recovery, RankLost(THIRD)) == (recovery, [])


@pytest.mark.parametrize("event", [RankLost(FIRST), EpochBroke(1)])
def test_a_group_that_does_not_heal_gives_up_at_once(event):
    recovery, orders = run(Recovery.of(3, 3, heals=False), event)
    assert orders == [GiveUp("an epoch broke, and parallel.healing is restart")]
    assert recovery.stage is Stage.GIVEN_UP


def test_it_gives_up_after_many_epochs_that_never_came_into_step():
    recovery = Recovery.of(2, 1)
    for _ in range(MAX_FAILED_EPOCHS):
        recovery, _ = run(recovery, EpochBroke(recovery.epoch))
        recovery, _ = healed(recovery)
    recovery, orders = run(recovery, EpochBroke(recovery.epoch))
    assert orders == [GiveUp(f"{MAX_FAILED_EPOCHS} epochs in a row never came into step")]


def test_epochs_that_come_into_step_may_break_for_ever():
    recovery = Recovery.of(2, 1)
    for _ in range(3 * MAX_FAILED_EPOCHS):
        recovery, _ = run(recovery, EpochBroke(recovery.epoch))
        recovery, _ = healed(recovery)
        recovery, _ = run(recovery, EpochInStep(recovery.epoch))
    assert recovery.stage is Stage.SERVING


def test_what_is_out_of_date_changes_nothing():
    recovery, _ = run(Recovery.of(3, 1), RankLost(FIRST))
    stale = [
        RankLost(FIRST),
        RankLost(RankId(1, 5)),
        EpochBroke(1),
        EpochInStep(1),
        OrderDone(SECOND, 1, Stage.PREPARING),
        OrderDone(SECOND, 2, Stage.JOINING),
        OrderDone(FIRST, 2, Stage.PREPARING),
        OrderFailed(SECOND, 1, Stage.PREPARING),
        StageOverdue(1, Stage.PREPARING),
        ReplacementLoaded(FIRST),
    ]
    assert run(recovery, *stale) == (recovery, [])


def test_a_rank_keeps_its_number_through_replacements():
    assert [str(rank) for rank in (FIRST, FIRST.next(), FIRST.next().next())] == ["0", "0.1", "0.2"]
    assert RankEpoch() == RankEpoch(joined=0)
