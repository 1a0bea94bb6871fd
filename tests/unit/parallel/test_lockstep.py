from __future__ import annotations

import pytest

from gptoss_ray.parallel.lockstep import Event, Phase, agreed, next_phase
from gptoss_ray.parallel.step_sync import StepAgreement
from tests.support.lockstep_checker import Bounds, Checker, LockstepViolationError, Machine


def machine(phase: Phase, event: Event, has_work: bool) -> Phase:
    return next_phase(phase, event)


def mutated(phase: Phase, event: Event, to: Phase, *, only_without_work: bool = False) -> Machine:
    """The machine with another end of one arrow."""

    def mutant(at: Phase, met: Event, has_work: bool) -> Phase:
        if (at, met) == (phase, event) and not (only_without_work and has_work):
            return to
        return next_phase(at, met)

    return mutant


CALM = {
    "one rank, which has no heartbeat": Bounds(
        1, num_requests=3, num_wakes=1, ends=True, has_heartbeat=False
    ),
    "two ranks": Bounds(2, num_requests=2, num_wakes=2, ends=True),
    "three ranks": Bounds(3, num_requests=2, num_wakes=1, ends=True),
    "four ranks": Bounds(4, num_requests=2),
    "four ranks that end": Bounds(4, num_wakes=1, ends=True),
}
TROUBLED = {
    "one of two ranks dies, or its step fails": Bounds(
        2, num_requests=2, num_wakes=1, num_deaths=1, num_faults=1, ends=True
    ),
    "two of three ranks die": Bounds(3, num_requests=2, num_deaths=2),
    "one of four ranks dies": Bounds(4, num_deaths=1, num_wakes=1),
    "two ranks form a new epoch": Bounds(2, num_requests=2, num_wakes=1, changes_epoch=True, ends=True),
    "what is left of two ranks forms a new epoch": Bounds(
        2, num_requests=2, num_deaths=1, num_faults=1, changes_epoch=True
    ),
    "what is left of three ranks forms a new epoch": Bounds(3, num_deaths=1, changes_epoch=True),
    "four ranks form a new epoch": Bounds(4, steps_per_request=1, changes_epoch=True),
}


@pytest.mark.parametrize("bounds", CALM.values(), ids=CALM)
def test_in_every_interleaving_all_requests_are_stepped_by_all_ranks_and_a_drained_group_rests(bounds):
    assert Checker(machine, bounds).check() > 300


@pytest.mark.parametrize("bounds", TROUBLED.values(), ids=TROUBLED)
def test_in_every_interleaving_survivors_stop_and_no_step_mixes_epochs(bounds):
    assert Checker(machine, bounds).check() > 2000


MUTANTS = {
    "a rank that stays away at a heartbeat when it has no work": (
        mutated(Phase.WAITING, Event.HEARTBEAT_DUE, Phase.WAITING, only_without_work=True),
        Bounds(2),
        "a second heartbeat passed",
    ),
    "a rank that skips the sync after a step when it has no work": (
        mutated(Phase.STEPPING, Event.STEP_DONE, Phase.WAITING, only_without_work=True),
        Bounds(2),
        "a second heartbeat passed",
    ),
    "a rank that runs the steps for its own work alone": (
        mutated(Phase.SYNCING, Event.AGREED_TO_STEP, Phase.WAITING, only_without_work=True),
        Bounds(2),
        "a sync meets a step",
    ),
    "a rank that syncs again in place of a step without tokens of its own": (
        mutated(Phase.SYNCING, Event.AGREED_TO_STEP, Phase.SYNCING, only_without_work=True),
        Bounds(2),
        "a sync meets a step",
    ),
    "a rank that steps at once when it is given a request": (
        mutated(Phase.WAITING, Event.SUBMITTED, Phase.STEPPING),
        Bounds(2),
        "a step of another epoch|a sync meets a step",
    ),
    "a rank alone whose wait no request ends": (
        mutated(Phase.WAITING, Event.SUBMITTED, Phase.WAITING),
        Bounds(1, has_heartbeat=False),
        "need not ever settle",
    ),
    "a rank that does not stop when its group is lost": (
        mutated(Phase.SYNCING, Event.GROUP_LOST, Phase.SYNCING),
        Bounds(2, num_deaths=1),
        "need not ever settle|a sync meets a step",
    ),
    "a rank that waits when its step is lost": (
        mutated(Phase.STEPPING, Event.GROUP_LOST, Phase.WAITING),
        Bounds(2, num_faults=1, has_heartbeat=False),
        "need not ever settle",
    ),
    "a rank that goes on with the old epoch's step": (
        mutated(Phase.STOPPED, Event.EPOCH_CHANGED, Phase.STEPPING),
        Bounds(3, num_deaths=1, changes_epoch=True),
        "a step of another epoch|a sync meets a step",
    ),
    "a rank that stops without the others": (
        mutated(Phase.SYNCING, Event.ASKED_TO_LEAVE, Phase.STOPPED),
        Bounds(2, ends=True),
        "need not ever settle",
    ),
    "a rank that never ends": (
        mutated(Phase.SYNCING, Event.AGREED_TO_END, Phase.WAITING),
        Bounds(2, ends=True),
        "need not ever settle",
    ),
}


@pytest.mark.parametrize(("mutant", "bounds", "found"), MUTANTS.values(), ids=MUTANTS)
def test_the_checker_finds_what_is_wrong_with(mutant, bounds, found):
    with pytest.raises(LockstepViolationError, match=found):
        Checker(mutant, bounds).check()


def test_without_a_heartbeat_one_lost_wake_leaves_a_request_undone_for_ever():
    with pytest.raises(LockstepViolationError, match="need not ever settle") as caught:
        Checker(machine, Bounds(2, has_heartbeat=False)).check()
    assert any("is given a request" in move for move in caught.value.trace)


CALLS = [Event.SUBMITTED, Event.WOKEN, Event.ASKED_TO_LEAVE, Event.EPOCH_CHANGED]


@pytest.mark.parametrize("call", CALLS)
def test_a_call_ends_a_wait_at_once_and_changes_nothing_before_a_sync(call):
    assert next_phase(Phase.WAITING, call) is Phase.SYNCING
    assert next_phase(Phase.SYNCING, call) is Phase.SYNCING


@pytest.mark.parametrize("call", CALLS)
def test_no_call_meets_a_step_half_done(call):
    with pytest.raises(AssertionError, match="STEPPING"):
        next_phase(Phase.STEPPING, call)


def test_a_stopped_rank_goes_on_only_in_a_new_epoch():
    assert next_phase(Phase.STOPPED, Event.EPOCH_CHANGED) is Phase.SYNCING
    for event in set(Event) - {Event.EPOCH_CHANGED}:
        with pytest.raises(AssertionError, match="STOPPED"):
            next_phase(Phase.STOPPED, event)


@pytest.mark.parametrize(
    ("agreement", "event"),
    [
        (StepAgreement(runs=True, max_num_tokens=1, max_prefill_tokens=0, placement=0), Event.AGREED_TO_STEP),
        (
            StepAgreement(runs=False, max_num_tokens=0, max_prefill_tokens=0, placement=0),
            Event.AGREED_TO_WAIT,
        ),
        (
            StepAgreement(runs=False, max_num_tokens=0, max_prefill_tokens=0, placement=0, ends=True),
            Event.AGREED_TO_END,
        ),
    ],
)
def test_an_agreement_is_to_step_or_to_wait_or_to_end(agreement, event):
    assert agreed(agreement) is event
