"""What the ranks of a group agree on before each step: is there one, how large, with how much prefill?

Every rank says what it wants (`StepDemand`), one small max-reduction brings the demands together, and
every rank derives the same `StepAgreement` from the same numbers. A minimum travels as the maximum of
negated values, so "all ranks want" costs one more number, and the vector has the same width for any
number of ranks.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from gptoss_ray.config import ParallelConfig
from gptoss_ray.errors import GroupBrokenError
from gptoss_ray.parallel.collectives import Collectives
from gptoss_ray.parallel.prefill_policy import PrefillPolicy
from gptoss_ray.parallel.step_deadline import StepDeadline


@dataclass(frozen=True, slots=True)
class StepDemand:
    """What one rank would do in the next step.

    Attributes:
        num_decode_tokens: Rows of sequences that decode.
        num_prefill_tokens: Prompt tokens it could compute, at most its token budget of a step.
        staged_placement: Version of the newest expert placement it is ready to swap to.
        is_leaving: It was asked to stop.
    """

    num_decode_tokens: int
    num_prefill_tokens: int
    staged_placement: int = 0
    is_leaving: bool = False

    @property
    def has_work(self) -> bool:
        """Whether the rank has a token to compute."""
        return self.num_decode_tokens > 0 or self.num_prefill_tokens > 0


@dataclass(frozen=True, slots=True)
class StepAgreement:
    """What all ranks of a group do next; the same object on every one of them.

    Attributes:
        runs: A step follows, on every rank, with or without tokens of its own.
        max_num_tokens: No rank has more rows than this in the step.
        max_prefill_tokens: Most prompt tokens of a rank in the step; 0 holds prompts back.
        placement: Version of the expert placement that the step uses: the newest that all have staged.
        ends: Every rank leaves now; no collective follows.
        is_urgent: A rank decodes, and waits for the prompts of others.
    """

    runs: bool
    max_num_tokens: int
    max_prefill_tokens: int
    placement: int
    ends: bool = False
    is_urgent: bool = False


class StepSync(Protocol):
    """The agreement before each step. Collective: every rank of a group calls `agree` equally often."""

    @property
    def heartbeat_s(self) -> float | None:
        """Longest wait of an idle rank before it calls `agree` again; None where nobody waits for it."""
        ...

    def agree(self, demand: StepDemand) -> StepAgreement:
        """Tell this rank's demand and return what all do.

        Raises:
            GroupBrokenError: A rank is lost, late, or of another epoch.
        """
        ...


class LocalStepSync:
    """A rank alone gets what it wants, and nobody waits for it."""

    heartbeat_s: float | None = None

    def agree(self, demand: StepDemand) -> StepAgreement:
        """Grant the demand; there is no step when it is empty, or when the rank leaves."""
        return StepAgreement(
            runs=demand.has_work and not demand.is_leaving,
            max_num_tokens=demand.num_decode_tokens + demand.num_prefill_tokens,
            max_prefill_tokens=demand.num_prefill_tokens,
            placement=demand.staged_placement,
            ends=demand.is_leaving,
        )


class GroupLinkView(Protocol):
    """What a sync needs of a rank's link to its group."""

    @property
    def collectives(self) -> Collectives:
        """Those of the present epoch; raises GroupBrokenError outside of a group."""
        ...

    @property
    def epoch(self) -> int:
        """Of the membership that the rank has joined."""
        ...


class GroupStepSync:
    """One `all_reduce_max` brings the demands of a group together.

    The prefill policy's state advances by agreed numbers alone, and starts anew with each epoch, so
    every rank holds the same one without being told.

    Args:
        link: Read at each call, so that a later epoch can put other collectives under it.
        config: Heartbeat and prefill policy.
    """

    def __init__(self, link: GroupLinkView, config: ParallelConfig) -> None:
        self._link = link
        self._config = config
        self._policy = PrefillPolicy(config)
        self._deadline = StepDeadline(config)
        self._known_epoch: int | None = None
        self._step: tuple[int, float] | None = None

    @property
    def heartbeat_s(self) -> float | None:
        """Longest wait of an idle rank before it meets the others again."""
        return self._config.heartbeat_s

    def agree(self, demand: StepDemand) -> StepAgreement:
        """See `StepSync`."""
        epoch = self._link.epoch
        if epoch != self._known_epoch:
            self._policy, self._deadline = PrefillPolicy(self._config), StepDeadline(self._config)
            self._known_epoch, self._step = epoch, None
        collectives = self._link.collectives
        collectives.timeout_s = self._deadline.of_sync(self._note_step())
        group = decode(collectives.all_reduce_max(encode(demand, epoch)))
        max_prefill_tokens = self._policy.advance(
            group.max_decode_tokens, group.max_prefill_tokens, all_want=group.all_want_prefill
        )
        agreement = StepAgreement(
            runs=group.has_work and not group.all_leaving,
            max_num_tokens=group.max_decode_tokens + max_prefill_tokens,
            max_prefill_tokens=max_prefill_tokens,
            placement=group.placement,
            ends=group.all_leaving,
            is_urgent=group.max_decode_tokens > 0,
        )
        if agreement.runs:
            collectives.timeout_s = self._deadline.of_step(agreement.max_num_tokens)
            self._step = agreement.max_num_tokens, time.monotonic()
        return agreement

    def _note_step(self) -> int:
        """Remember how long the step since the last agreement took; returns its tokens, 0 without one."""
        step, self._step = self._step, None
        if step is None:
            return 0
        num_tokens, started_at = step
        self._deadline.note(num_tokens, time.monotonic() - started_at)
        return num_tokens


@dataclass(frozen=True, slots=True)
class GroupDemand:
    """The demands of all ranks, reduced.

    Attributes:
        max_decode_tokens: Of any rank.
        max_prefill_tokens: Of any rank.
        all_want_prefill: Every rank has prompt tokens to compute.
        placement: Smallest of the staged versions.
        all_leaving: Every rank was asked to stop.
    """

    max_decode_tokens: int
    max_prefill_tokens: int
    all_want_prefill: bool
    placement: int
    all_leaving: bool

    @property
    def has_work(self) -> bool:
        """Whether any rank has a token to compute."""
        return self.max_decode_tokens > 0 or self.max_prefill_tokens > 0


def encode(demand: StepDemand, epoch: int) -> list[int]:
    """Return the vector of 64-bit integers whose place-by-place maximum `decode` reads."""
    return [
        epoch,
        -epoch,
        demand.num_decode_tokens,
        demand.num_prefill_tokens,
        -int(demand.num_prefill_tokens > 0),
        -demand.staged_placement,
        -int(demand.is_leaving),
    ]


def decode(maxima: Sequence[int]) -> GroupDemand:
    """Read the maxima of all ranks' vectors.

    Raises:
        GroupBrokenError: The ranks are not all of one epoch.
    """
    newest, minus_oldest, decodes, prefills, minus_all_prefill, minus_placement, minus_all_leave = maxima
    if newest != -minus_oldest:
        raise GroupBrokenError(
            f"Ranks of epochs {-minus_oldest} and {newest} met in one step; "
            "the older ones have to join the newer epoch."
        )
    return GroupDemand(
        max_decode_tokens=decodes,
        max_prefill_tokens=prefills,
        all_want_prefill=minus_all_prefill == -1,
        placement=-minus_placement,
        all_leaving=minus_all_leave == -1,
    )
