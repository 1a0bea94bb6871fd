"""What the thread of a rank does next: sync with the others, step, wait, or stop.

A rank's thread is always in one phase and does what its name says::

       ┌──────────────────────────── STEP_DONE ───────────────────────────┐
       ▼                                                                  │
    SYNCING ──────────────────── AGREED_TO_STEP ──────────────────▶ STEPPING
     │ │ ▲                                                                │
     │ │ └── a call, or HEARTBEAT_DUE ──┐                                 │
     │ └────────── AGREED_TO_WAIT ──▶ WAITING                             │
     └── AGREED_TO_END, GROUP_LOST ──▶ STOPPED ◀────── GROUP_LOST ────────┘

- **SYNCING**: run the calls in the inbox, then agree with all ranks (a collective; see `step_sync`).
- **STEPPING**: run the agreed step with all ranks (collectives in every layer), also with no tokens.
- **WAITING**: run calls as they come, until one of them is an event or the heartbeat is due. The
  heartbeat counts from the start of the wait: a call that is no event (statistics) does not renew it.
- **STOPPED**: no collective any more, unless the rank joins a new epoch (EPOCH_CHANGED → SYNCING).

Only an agreement of all ranks starts a step, and only an agreement starts a wait; so ranks call the same
collectives in the same order, and there is no counter to get wrong. Ranks that wait come back on their
own: the heartbeat is the guarantee, a wake only saves the time until then. Where a wake is lost, or comes
just before the sync that finds no work, the request waits for one heartbeat of the others. A rank alone
is the same machine without a heartbeat, as nobody waits for it.

Calls run in SYNCING and WAITING only (and in STOPPED), so an event of a call never meets a step half done.

Tests explore every interleaving of up to four ranks (`tests/support/lockstep_checker.py`).
"""

from __future__ import annotations

from enum import Enum, auto

from gptoss_ray.parallel.step_sync import StepAgreement


class Phase(Enum):
    """What a rank's thread is doing."""

    SYNCING = auto()
    STEPPING = auto()
    WAITING = auto()
    STOPPED = auto()


class Event(Enum):
    """What makes a rank's thread go on: first the calls of its inbox, then what it met itself."""

    SUBMITTED = auto()
    """A request was taken."""
    WOKEN = auto()
    """Another rank of the group was given a request."""
    ASKED_TO_LEAVE = auto()
    """The rank is to stop; it keeps in step until all are asked."""
    EPOCH_CHANGED = auto()
    """The rank has joined another membership of the group."""

    HEARTBEAT_DUE = auto()
    """The wait has lasted as long as it may."""
    AGREED_TO_STEP = auto()
    AGREED_TO_WAIT = auto()
    AGREED_TO_END = auto()
    STEP_DONE = auto()
    """The step's last collective is over; a rank alone says so of a failed step, too."""
    GROUP_LOST = auto()
    """A collective raised GroupBrokenError, or the rank has left the group since its own step failed."""


FIRST_PHASE = Phase.SYNCING

_CALLS = (Event.SUBMITTED, Event.WOKEN, Event.ASKED_TO_LEAVE, Event.EPOCH_CHANGED)

_NEXT_PHASE = {
    **{(Phase.SYNCING, call): Phase.SYNCING for call in _CALLS},
    (Phase.SYNCING, Event.AGREED_TO_STEP): Phase.STEPPING,
    (Phase.SYNCING, Event.AGREED_TO_WAIT): Phase.WAITING,
    (Phase.SYNCING, Event.AGREED_TO_END): Phase.STOPPED,
    (Phase.SYNCING, Event.GROUP_LOST): Phase.STOPPED,
    (Phase.STEPPING, Event.STEP_DONE): Phase.SYNCING,
    (Phase.STEPPING, Event.GROUP_LOST): Phase.STOPPED,
    **{(Phase.WAITING, call): Phase.SYNCING for call in _CALLS},
    (Phase.WAITING, Event.HEARTBEAT_DUE): Phase.SYNCING,
    (Phase.STOPPED, Event.EPOCH_CHANGED): Phase.SYNCING,
}


def next_phase(phase: Phase, event: Event) -> Phase:
    """Return the phase that an event leads to; an event that cannot be in a phase is a bug."""
    assert (phase, event) in _NEXT_PHASE, f"{event} while {phase}"
    return _NEXT_PHASE[phase, event]


def agreed(agreement: StepAgreement) -> Event:
    """Return the event that an agreement is."""
    if agreement.ends:
        return Event.AGREED_TO_END
    return Event.AGREED_TO_STEP if agreement.runs else Event.AGREED_TO_WAIT
