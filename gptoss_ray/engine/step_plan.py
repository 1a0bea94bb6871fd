"""What one step computes."""

from __future__ import annotations

from dataclasses import dataclass, replace

from gptoss_ray.engine.draft import Draft
from gptoss_ray.engine.sequence import Sequence

MAX_SCORED_TOKENS = 64
"""Of a step, in all prompts whose log probabilities are wanted: each costs a row of logits as wide as the
vocabulary (0.8 MB of o200k's)."""


@dataclass(frozen=True, slots=True)
class ScheduledChunk:
    """Tokens of one sequence to compute in a step.

    Attributes:
        sequence: Whose tokens.
        start: Position of the first one.
        num_tokens: How many.
        draws_token: Whether the chunk reaches the sequence's last token and the next is drawn.
        draft: Tokens guessed behind that last one, which are computed, too; a token is drawn behind each.
    """

    sequence: Sequence
    start: int
    num_tokens: int
    draws_token: bool
    draft: Draft = ()

    @property
    def num_rows(self) -> int:
        """Tokens to compute, those of the draft included."""
        return self.num_tokens + len(self.draft)

    @property
    def end(self) -> int:
        """Position behind the sequence's last token in the chunk."""
        return self.start + self.num_tokens

    @property
    def scored(self) -> range:
        """Positions whose logits are wanted for the log probability of the prompt's next token."""
        unscored = self.sequence.unscored
        if not unscored:
            return unscored
        return range(max(self.start, unscored.start), min(self.end, unscored.stop))


@dataclass(frozen=True, slots=True)
class StepPlan:
    """The chunks of one step, in batch order; made by `Scheduler.schedule`, then committed or dropped."""

    chunks: tuple[ScheduledChunk, ...]

    def drawing_sequences(self) -> list[Sequence]:
        """Sequences that draw a token, in the order of the logits' rows."""
        return [chunk.sequence for chunk in self.chunks if chunk.draws_token]

    @property
    def num_rows(self) -> int:
        """Of all chunks, drafts included."""
        return sum(chunk.num_rows for chunk in self.chunks)

    @property
    def drafts(self) -> dict[Sequence, Draft]:
        """Of the sequences that have one; each has a row of logits more for each of its tokens."""
        return {chunk.sequence: chunk.draft for chunk in self.chunks if chunk.draft}

    @property
    def num_draws(self) -> int:
        """Rows of logits behind which tokens are drawn."""
        return sum(1 + len(chunk.draft) for chunk in self.chunks if chunk.draws_token)

    def scored_chunks(self) -> list[ScheduledChunk]:
        """Chunks with prompt tokens to score; their rows of logits follow those of the drawing sequences."""
        return [chunk for chunk in self.chunks if chunk.scored]


LOOK_BACK_TOKENS = 1024
"""Where the step's length counts, a prompt's token costs one more for every so many before it: attention."""


class PlanDraft:
    """A plan being made: chunks, and what is left of the budgets.

    Args:
        token_budget: Most tokens of the step.
        prompt_budget: Most of them that may read prompts; None: all.
        is_urgent: Whether others wait for the step, so that tokens far into a prompt cost more of its budget.
    """

    def __init__(self, token_budget: int, prompt_budget: int | None, *, is_urgent: bool = False) -> None:
        self._tokens_left = token_budget
        self._prompt_tokens_left = token_budget if prompt_budget is None else prompt_budget
        self._scored_tokens_left = MAX_SCORED_TOKENS
        self._is_urgent = is_urgent
        self._chunks: dict[Sequence, ScheduledChunk] = {}

    def __contains__(self, sequence: Sequence) -> bool:
        return sequence in self._chunks

    @property
    def prompt_budget_left(self) -> int:
        """Tokens of prompts that may still be added."""
        return max(0, min(self._tokens_left, self._prompt_tokens_left))

    def add(self, sequence: Sequence, *, is_new: bool = False) -> None:
        """Compute as many of the sequence's tokens as the budgets allow; see `affordable`."""
        num_tokens = self.affordable(sequence, is_new=is_new)
        if num_tokens < self._within_budget(sequence, is_new):
            # Whoever still reads its prompt ends the plan, whichever budget is used up.
            self._tokens_left = num_tokens
        self._tokens_left -= num_tokens
        if _reads_prompt(sequence, is_new):
            self._prompt_tokens_left -= num_tokens * self._cost(sequence)
        chunk = ScheduledChunk(
            sequence,
            start=sequence.next_start,
            num_tokens=num_tokens,
            draws_token=sequence.draws and num_tokens == sequence.num_uncomputed_tokens,
        )
        self._scored_tokens_left -= len(chunk.scored)
        self._chunks[sequence] = chunk

    def takes_draft(self, sequence: Sequence, draft: Draft) -> bool:
        """Whether the sequence decodes here, and budget is left for a draft."""
        chunk = self._chunks.get(sequence)
        decodes = chunk is not None and chunk.draws_token and chunk.num_tokens == 1
        return decodes and len(draft) <= self._tokens_left

    def add_draft(self, sequence: Sequence, draft: Draft) -> None:
        """Have a decoding sequence check a draft."""
        self._tokens_left -= len(draft)
        self._chunks[sequence] = replace(self._chunks[sequence], draft=draft)

    def affordable(self, sequence: Sequence, *, is_new: bool = False) -> int:
        """Uncomputed tokens of the sequence that the budgets allow.

        Args:
            sequence: Running, or about to.
            is_new: Whether it is admitted by this plan: even a single token of it is one of a prompt then.
        """
        num_tokens = self._within_budget(sequence, is_new)
        unscored = sequence.unscored
        if not unscored:
            return num_tokens
        first = max(unscored.start, sequence.next_start)
        if unscored.stop - first <= self._scored_tokens_left:
            return num_tokens
        return min(num_tokens, first + self._scored_tokens_left - sequence.next_start)

    def _within_budget(self, sequence: Sequence, is_new: bool) -> int:
        budget = self._tokens_left
        if _reads_prompt(sequence, is_new):
            # At least one token, whatever it costs: a prompt always goes on.
            budget = self.prompt_budget_left and max(1, self.prompt_budget_left // self._cost(sequence))
        return min(budget, sequence.num_uncomputed_tokens)

    def _cost(self, sequence: Sequence) -> int:
        return 1 + sequence.next_start // LOOK_BACK_TOKENS if self._is_urgent else 1

    def plan(self) -> StepPlan:
        """The plan as it stands."""
        return StepPlan(tuple(self._chunks.values()))


def _reads_prompt(sequence: Sequence, is_new: bool) -> bool:
    return is_new or not sequence.is_decoding
