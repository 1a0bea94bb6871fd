"""What one step computes."""

from __future__ import annotations

from dataclasses import dataclass

from gptoss_ray.engine.sequence import Sequence


@dataclass(frozen=True, slots=True)
class ScheduledChunk:
    """Tokens of one sequence to compute in a step.

    Attributes:
        sequence: Whose tokens.
        start: Position of the first one.
        num_tokens: How many.
        draws_token: Whether the chunk reaches the sequence's last token, so that the next is drawn.
    """

    sequence: Sequence
    start: int
    num_tokens: int
    draws_token: bool

    @property
    def end(self) -> int:
        """Position behind the last token."""
        return self.start + self.num_tokens


@dataclass(frozen=True, slots=True)
class StepPlan:
    """The chunks of one step, in batch order; made by `Scheduler.schedule`, then committed or dropped."""

    chunks: tuple[ScheduledChunk, ...]

    def drawing_sequences(self) -> list[Sequence]:
        """Sequences that draw a token, in the order of the logits' rows."""
        return [chunk.sequence for chunk in self.chunks if chunk.draws_token]


class PlanDraft:
    """A plan being made: chunks, and what is left of the token budget."""

    def __init__(self, token_budget: int) -> None:
        self.budget_left = token_budget
        self._chunks: dict[Sequence, ScheduledChunk] = {}

    def __contains__(self, sequence: Sequence) -> bool:
        return sequence in self._chunks

    def add(self, sequence: Sequence) -> None:
        """Compute as many of the sequence's tokens as the budget allows."""
        num_tokens = self.affordable(sequence)
        self.budget_left -= num_tokens
        self._chunks[sequence] = ScheduledChunk(
            sequence,
            start=sequence.num_computed_tokens,
            num_tokens=num_tokens,
            draws_token=num_tokens == sequence.num_uncomputed_tokens,
        )

    def affordable(self, sequence: Sequence) -> int:
        """Uncomputed tokens of the sequence that the budget allows."""
        return min(self.budget_left, sequence.num_uncomputed_tokens)

    def plan(self) -> StepPlan:
        """The plan as it stands."""
        return StepPlan(tuple(self._chunks.values()))
