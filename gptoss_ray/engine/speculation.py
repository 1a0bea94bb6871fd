"""Which drafts a step checks, and how well they have done."""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Sequence as ReadOnlySequence
from dataclasses import dataclass
from weakref import WeakKeyDictionary

from gptoss_ray.config import MAX_DRAFTED_TOKENS, EngineConfig
from gptoss_ray.engine.draft import Draft, Drafter
from gptoss_ray.engine.sequence import Sequence
from gptoss_ray.engine.step_cost import StepCost, worthwhile_lengths

FIRST_LIKELIHOOD = 0.5
"""That a draft's next token is right, of a sequence that has not had one."""
MEMORY = 0.125
"""What the latest token of a draft counts beside those before it."""


@dataclass
class DraftCounts:
    """Totals from the engine's start.

    Attributes:
        num_drafts: Drafts that steps have checked.
        num_tokens: Their tokens.
        num_accepted: Of them, those that were drawn, too.
    """

    num_drafts: int = 0
    num_tokens: int = 0
    num_accepted: int = 0


class Speculation:
    """Asks a drafter, and checks of its drafts what should pay.

    How likely they are right is learnt from every draft, whether it was checked or not: what was drawn in its
    place is known afterwards.

    Args:
        drafter: Guesses.
        max_length: Most tokens of a draft.
        cost: Of steps; None: all drafts are checked that the step has room for.

    Attributes:
        counts: What became of drafts.
    """

    def __init__(self, drafter: Drafter, max_length: int, cost: StepCost | None) -> None:
        self._drafter = drafter
        self._max_length = max_length
        self._cost = cost
        self._likelihoods: WeakKeyDictionary[Sequence, float] = WeakKeyDictionary()
        self._proposed: dict[Sequence, Draft] = {}
        self.counts = DraftCounts()

    def drafts(
        self, sequences: ReadOnlySequence[Sequence], *, num_other_rows: int, max_num_tokens: int
    ) -> dict[Sequence, Draft]:
        """Return the drafts that the next step is to check.

        Args:
            sequences: That decode in it.
            num_other_rows: Its rows for prompts.
            max_num_tokens: What is left of its budget.
        """
        room = min(max_num_tokens, MAX_DRAFTED_TOKENS)
        # A draft of all tokens that are left would have nothing behind it to draw.
        max_lengths = [
            0 if each.unscored else min(self._max_length, each.num_tokens_left - 1) for each in sequences
        ]
        proposed = zip(sequences, self._drafter.propose(sequences, max_lengths), strict=True)
        drafts = {each: before_stop(draft, each.request.params.stop_token_ids) for each, draft in proposed}
        self._proposed = {each: draft for each, draft in drafts.items() if draft}
        lengths = self._lengths(len(sequences) - len(self._proposed) + num_other_rows, room)
        checked = zip(self._proposed.items(), lengths, strict=True)
        return {each: draft[:length] for (each, draft), length in checked if length}

    def note(self, sequence: Sequence, draft: Draft, drawn: ReadOnlySequence[int]) -> None:
        """Learn from a step.

        Args:
            sequence: Which has drawn.
            draft: What the step has checked, perhaps nothing.
            drawn: The tokens, at least one: those of the draft that were right, and the one behind them.
        """
        proposed = draft or self._proposed.get(sequence, ())[:1]
        num_right = sum(guess == token_id for guess, token_id in zip(proposed, drawn, strict=False))
        self._learn(sequence, [True] * num_right + [False] * (num_right < min(len(proposed), len(drawn))))
        if draft:
            self.counts.num_drafts += 1
            self.counts.num_tokens += len(draft)
            self.counts.num_accepted += len(drawn) - 1

    def _lengths(self, num_other_rows: int, room: int) -> list[int]:
        """How much of each proposed draft to check."""
        if self._cost is None:
            return _first_come(map(len, self._proposed.values()), room)
        drafts = [
            (self._likelihoods.get(each, FIRST_LIKELIHOOD), len(draft))
            for each, draft in self._proposed.items()
        ]
        return worthwhile_lengths(drafts, self._cost, num_other_rows, room)

    def _learn(self, sequence: Sequence, outcomes: Iterable[bool]) -> None:
        likelihood = self._likelihoods.get(sequence, FIRST_LIKELIHOOD)
        for was_right in outcomes:
            likelihood += MEMORY * (was_right - likelihood)
        self._likelihoods[sequence] = likelihood


def before_stop(draft: Draft, stop_token_ids: ReadOnlySequence[int]) -> Draft:
    """Return the draft up to the first token that ends the sequence, which nothing is drawn behind."""
    for place, token_id in enumerate(draft):
        if token_id in stop_token_ids:
            return draft[:place]
    return draft


def _first_come(lengths: Iterable[int], room: int) -> list[int]:
    taken = []
    for length in lengths:
        taken.append(min(length, room))
        room -= taken[-1]
    return taken


def make_speculation(
    drafter: Drafter, engine: EngineConfig, cost: StepCost, device: str
) -> Speculation | None:
    """Return what `engine.speculation` asks for; None: no drafts.

    Off a CPU "auto" makes none: `StepCost` knows no other device.
    """
    if engine.speculation == "off" or (engine.speculation == "auto" and device != "cpu"):
        return None
    return Speculation(drafter, engine.max_draft_tokens, cost if engine.speculation == "auto" else None)
