"""Which sequences compute which tokens in a step, and what becomes of them afterwards.

`demand` says what there is to do, for the ranks of a group to agree on. `schedule` plans: running
sequences that decode, then those that still read their prompt, then new ones, each first-come, under a
token budget. Budget that is left over checks drafts of what comes next (`speculation.py`), which `demand` has
chosen. `commit` is the only place where a sequence advances. `schedule_ahead` plans the step behind one that
is still computed, from what that one will leave for certain, and changes no more than `schedule` does.

Sequences may be suspected of making steps fail: until each has completed one, they run one at a time, alone.

A plan may be dropped (the forward pass failed) and made again. What `schedule` does change is safe
to keep then: sequences own more blocks than they have filled, were admitted with a cached prefix, or
were preempted. No token, no published block and no output depends on it.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from collections.abc import Sequence as ReadOnlySequence
from contextlib import contextmanager
from dataclasses import replace

from gptoss_ray.engine.draft import NO_DRAFTS, Draft
from gptoss_ray.engine.sampler import Draw, SampledToken, Scores
from gptoss_ray.engine.sequence import Sequence
from gptoss_ray.engine.speculation import Speculation
from gptoss_ray.engine.step_plan import PlanDraft, ScheduledChunk, StepPlan
from gptoss_ray.errors import GptossError
from gptoss_ray.generation import FinishReason, TokenOutput
from gptoss_ray.kvcache.block_pool import BlockPool
from gptoss_ray.kvcache.prefix_cache import PrefixCache
from gptoss_ray.parallel.step_sync import StepDemand

logger = logging.getLogger(__name__)


class Scheduler:
    """Waiting and running sequences over one pool of KV blocks.

    Args:
        pool: Where blocks come from.
        prefix_cache: Over the same pool; None to compute every prompt whole.
        max_num_sequences: Most sequences running at once.
        max_num_batched_tokens: Token budget of a step.
        speculation: Makes drafts; None: every step draws one token of a sequence.
    """

    def __init__(
        self,
        pool: BlockPool,
        prefix_cache: PrefixCache | None,
        *,
        max_num_sequences: int,
        max_num_batched_tokens: int,
        speculation: Speculation | None = None,
    ) -> None:
        self._pool = pool
        self._prefix_cache = prefix_cache
        self._max_num_sequences = max_num_sequences
        self._max_num_batched_tokens = max_num_batched_tokens
        self._speculation = speculation
        self._drafts: Mapping[Sequence, Draft] = NO_DRAFTS
        # Both in order of arrival: only the longest waiting is admitted, only the latest preempted.
        self._waiting: OrderedDict[str, Sequence] = OrderedDict()
        self._running: OrderedDict[str, Sequence] = OrderedDict()
        self._suspects: dict[str, None] = {}
        self.num_preemptions = 0
        self.num_looked_up_tokens = 0
        self.num_found_tokens = 0

    @property
    def num_waiting(self) -> int:
        """Sequences without KV blocks: new or preempted."""
        return len(self._waiting)

    @property
    def num_running(self) -> int:
        """Sequences with KV blocks."""
        return len(self._running)

    @property
    def is_idle(self) -> bool:
        """Whether there are no sequences."""
        return not (self._running or self._waiting)

    def __contains__(self, request_id: str) -> bool:
        return request_id in self._running or request_id in self._waiting

    @property
    def request_ids(self) -> tuple[str, ...]:
        """Of all sequences."""
        return (*self._running, *self._waiting)

    def add(self, sequence: Sequence) -> None:
        """Queue a sequence behind all others."""
        self._waiting[sequence.request_id] = sequence

    def suspect(self, request_ids: Iterable[str]) -> None:
        """Plan those that run one at a time, and nothing beside them, until each has completed a step."""
        self._suspects = dict.fromkeys(id_ for id_ in request_ids if id_ in self._running)

    def abort(self, request_id: str) -> bool:
        """Forget a sequence and free its blocks; False when there is none of that id."""
        self._suspects.pop(request_id, None)
        sequence = self._running.pop(request_id, None)
        if sequence is None:
            return self._waiting.pop(request_id, None) is not None
        self._release(sequence)
        return True

    def demand(self) -> StepDemand:
        """What `schedule` would plan now: its decodes with their drafts, and at most its tokens of prompts.

        Prompts that cannot start, for want of a seat or of blocks, are not wanted: other ranks would make
        way for them in vain.
        """
        demand = self._demand_of(self._running.values())
        num_drafted = self._make_drafts(demand)
        return replace(demand, num_decode_tokens=demand.num_decode_tokens + num_drafted)

    def demand_ahead(self, launched: StepPlan) -> StepDemand:
        """What `schedule_ahead` would plan now, where it can plan."""
        with _as_if_computed(launched):
            return self._demand_of(each for each in self._running.values() if not each.ends_with_open_step)

    def schedule(self, max_prefill_tokens: int | None = None, *, is_urgent: bool = False) -> StepPlan:
        """Plan the next step; empty when there is nothing to compute.

        Args:
            max_prefill_tokens: Most tokens of prompts to compute; None: as many as fit.
            is_urgent: Whether others wait for the step: it takes fewer of them, the longer the prompt.
        """
        drafts, self._drafts = self._drafts, NO_DRAFTS
        draft = PlanDraft(self._max_num_batched_tokens, max_prefill_tokens, is_urgent=is_urgent)
        for sequence in self._candidates():
            if sequence.request_id not in self._running:
                continue  # preempted for an earlier one
            if draft.affordable(sequence) == 0:
                return draft.plan()
            if self._make_room(sequence, draft):
                draft.add(sequence)
        if not self._suspects:
            self._admit_waiting(draft)
        self._add_drafts(draft, drafts)
        return draft.plan()

    @property
    def can_plan_ahead(self) -> bool:
        """Whether what a step leaves is known before it is committed, but for tokens.

        A draft goes on from the last token; and who is suspected runs alone.
        """
        return self._speculation is None and not self._suspects

    def schedule_ahead(
        self, launched: StepPlan, max_prefill_tokens: int | None = None, *, is_urgent: bool = False
    ) -> StepPlan | None:
        """Plan the step behind one that was launched and is not committed; None: commit that one first.

        Each of its sequences goes on where it will leave off, with a token that nobody knows yet. One that
        turns out to have ended (a stop token, an abort) was computed in vain: `commit` passes over it.
        Nothing is preempted: what is released while a step computes may still be read by it. For the
        arguments see `schedule`.
        """
        if not self.can_plan_ahead:
            return None
        draft = PlanDraft(self._max_num_batched_tokens, max_prefill_tokens, is_urgent=is_urgent)
        with _as_if_computed(launched):
            for sequence in self._candidates():
                if sequence.ends_with_open_step:
                    continue
                num_tokens = draft.affordable(sequence)
                if num_tokens == 0:
                    break
                end = sequence.next_start + num_tokens
                if sequence.blocks.num_blocks_missing(end) > self._pool.num_free:
                    return None
                sequence.blocks.extend(end)
                draft.add(sequence)
            else:
                self._admit_waiting(draft)
            return draft.plan()

    def commit(
        self, plan: StepPlan, draws: list[Draw], scores: ReadOnlySequence[Scores] = ()
    ) -> list[TokenOutput]:
        """Take a computed step into account and return what it made.

        Args:
            plan: As it was made, with at most one other made ahead since. Sequences that have ended or were
                aborted meanwhile are passed over.
            draws: One for each of `plan.drawing_sequences()`.
            scores: One for each of `plan.scored_chunks()`.
        """
        failures: dict[Sequence, GptossError] = {}
        for chunk, logprobs in zip(plan.scored_chunks(), scores, strict=True):
            if isinstance(logprobs, GptossError):
                failures[chunk.sequence] = logprobs
            else:
                chunk.sequence.add_prompt_logprobs(logprobs)
        computed = {chunk.sequence: chunk for chunk in plan.chunks if self._runs(chunk.sequence)}
        drawn: dict[Sequence, Draw | None] = dict(zip(plan.drawing_sequences(), draws, strict=True))
        scored = dict.fromkeys(each for each in computed if not each.draws and not each.unscored)
        made = {each: draw for each, draw in (drawn | scored | failures).items() if each in computed}
        for sequence, chunk in computed.items():
            draw = made.get(sequence)
            self._take(chunk, draw if isinstance(draw, tuple) else ())
            self._suspects.pop(sequence.request_id, None)
        return [self._emit(sequence, draw) for sequence, draw in made.items()]

    # Planning

    def _demand_of(self, running: Iterable[Sequence]) -> StepDemand:
        """What those that run would compute, and those that wait, if there is room; drafts left out."""
        budget = self._max_num_batched_tokens
        nums_uncomputed = [sequence.num_uncomputed_tokens for sequence in running]
        num_decoding = nums_uncomputed.count(1)  # as `Sequence.is_decoding`
        num_decodes, num_prompt_tokens = min(budget, num_decoding), sum(nums_uncomputed) - num_decoding
        if num_decodes + num_prompt_tokens < budget and self._can_admit():
            num_prompt_tokens += sum(sequence.num_tokens for sequence in self._waiting.values())
        return StepDemand(num_decodes, min(budget - num_decodes, num_prompt_tokens))

    def _runs(self, sequence: Sequence) -> bool:
        """Whether it is this very sequence that runs, and not a later one of the same id."""
        return self._running.get(sequence.request_id) is sequence

    def _candidates(self) -> list[Sequence]:
        """Running sequences in the order in which they are planned."""
        if self._suspects:
            return [self._running[next(iter(self._suspects))]]
        return sorted(self._running.values(), key=lambda each: not each.is_decoding)

    def _make_room(self, sequence: Sequence, draft: PlanDraft) -> bool:
        """Own blocks for the sequence's next chunk, preempting later arrivals, or else itself."""
        end = sequence.num_computed_tokens + draft.affordable(sequence)
        while sequence.blocks.num_blocks_missing(end) > self._pool.num_free:
            victim = next(reversed(self._running.values()))
            # Whoever still reads its prompt has used up the budget of its steps, so nobody was
            # admitted after it: the decodes planned before it arrived before it, too.
            assert victim not in draft
            self._preempt(victim)
            if victim is sequence:
                return False
        sequence.blocks.extend(end)
        return True

    def _preempt(self, sequence: Sequence) -> None:
        """Free the latest arrival's blocks; it waits before all that never ran and recomputes."""
        del self._running[sequence.request_id]
        self._suspects.pop(sequence.request_id, None)
        self._release(sequence)
        self._waiting[sequence.request_id] = sequence
        self._waiting.move_to_end(sequence.request_id, last=False)
        self.num_preemptions += 1
        logger.info("request_preempted request_id=%s num_tokens=%d", sequence.request_id, sequence.num_tokens)

    def _admit_waiting(self, draft: PlanDraft) -> None:
        """Start waiting sequences while budget, seats and blocks last; never past one that must wait."""
        while draft.prompt_budget_left > 0 and self._waiting and len(self._running) < self._max_num_sequences:
            request_id, sequence = next(iter(self._waiting.items()))
            if draft.affordable(sequence, is_new=True) == 0:
                return
            num_found_tokens = self._adopt_prefix(sequence)
            if not self._has_room_for(sequence):
                sequence.blocks.release()
                return
            sequence.num_computed_tokens = num_found_tokens
            self._count_lookup(sequence, num_found_tokens)
            del self._waiting[request_id]
            self._running[request_id] = sequence
            sequence.blocks.extend(num_found_tokens + draft.affordable(sequence, is_new=True))
            draft.add(sequence, is_new=True)

    def _can_admit(self) -> bool:
        """Whether the longest waiting sequence would find a seat and blocks."""
        if not self._waiting or len(self._running) >= self._max_num_sequences:
            return False
        sequence = next(iter(self._waiting.values()))
        self._adopt_prefix(sequence)
        has_room = self._has_room_for(sequence)
        sequence.blocks.release()
        return has_room

    def _make_drafts(self, demand: StepDemand) -> int:
        """Choose the drafts of the next step from what `demand` leaves of its budget; return their tokens."""
        self._drafts = NO_DRAFTS
        num_prompt_tokens = demand.num_prefill_tokens
        room = self._max_num_batched_tokens - demand.num_decode_tokens - num_prompt_tokens
        if self._speculation is not None and not self._suspects and room > 0:
            decoding = [sequence for sequence in self._running.values() if sequence.is_decoding]
            self._drafts = self._speculation.drafts(
                decoding, num_other_rows=num_prompt_tokens, max_num_tokens=room
            )
        return sum(map(len, self._drafts.values()))

    def _add_drafts(self, plan: PlanDraft, drafts: Mapping[Sequence, Draft]) -> None:
        """Add the drafts that were chosen to those sequences that the plan has decode; nobody makes room."""
        for sequence, draft in drafts.items():
            if not plan.takes_draft(sequence, draft):
                continue
            end = sequence.num_tokens + len(draft)
            if sequence.blocks.num_blocks_missing(end) > self._pool.num_free:
                end = min(end, len(sequence.blocks) * sequence.blocks.block_size)
            sequence.blocks.extend(end)
            plan.add_draft(sequence, draft[: end - sequence.num_tokens])

    def _adopt_prefix(self, sequence: Sequence) -> int:
        """Share the cached blocks of the sequence's prefix; return how many tokens they hold."""
        if self._prefix_cache is None or sequence.unscored:
            return 0
        # The last token is always computed: its logits are what the next one is drawn from.
        hashes = sequence.block_hashes.of_complete_blocks(sequence.token_ids, sequence.num_tokens - 1)
        full, window = self._prefix_cache.match(hashes)
        sequence.blocks.adopt(full, window)
        return len(full) * sequence.blocks.block_size

    def _has_room_for(self, sequence: Sequence) -> bool:
        """Whether all its tokens fit beside what running sequences still need.

        Counting a prompt whole, and one more block per group for each running sequence, keeps a
        new sequence from being preempted as soon as it has started.
        """
        num_needed = sequence.blocks.num_blocks_still_needed(sequence.num_tokens)
        for other in self._running.values():
            num_needed += other.blocks.num_blocks_still_needed(other.num_tokens) + 2
        return num_needed <= self._pool.num_free

    def _count_lookup(self, sequence: Sequence, num_found_tokens: int) -> None:
        if sequence.num_cached_tokens is not None:
            return  # readmitted after preemption: finding its own blocks again is no hit
        sequence.num_cached_tokens = min(num_found_tokens, sequence.num_prompt_tokens)
        if self._prefix_cache is not None:
            self.num_looked_up_tokens += sequence.num_tokens
            self.num_found_tokens += num_found_tokens

    # Committing

    def _take(self, chunk: ScheduledChunk, drawn: ReadOnlySequence[SampledToken]) -> None:
        """Append what was drawn; of a draft, rows up to the last token that was drawn, too, are computed."""
        sequence = chunk.sequence
        for token in drawn:
            sequence.append(token.token_id)
        self._advance(sequence, chunk.start, chunk.end + max(0, len(drawn) - 1))
        if self._speculation is not None and drawn:
            self._speculation.note(sequence, chunk.draft, [token.token_id for token in drawn])

    def _advance(self, sequence: Sequence, start: int, end: int) -> None:
        """Count tokens as computed, publish the blocks they complete, free what no row reads again."""
        sequence.num_computed_tokens = end
        if self._prefix_cache is not None:
            first = start // sequence.blocks.block_size
            if end // sequence.blocks.block_size > first:
                hashes = sequence.block_hashes.of_complete_blocks(sequence.token_ids, end)
                self._prefix_cache.publish(sequence.blocks, hashes, first)
            if start < sequence.num_prompt_tokens <= end:
                self._keep_window_at(sequence, sequence.num_prompt_tokens)
        sequence.blocks.slide_window(end)

    def _emit(self, sequence: Sequence, draw: Draw | None) -> TokenOutput:
        """End a sequence if it is complete or has failed, and tell its client what was appended."""
        position = sequence.num_output_tokens
        if isinstance(draw, GptossError):
            self._end(sequence)
            return sequence.output(position, finish_reason=FinishReason.ERROR, error=draw)
        if draw is None:
            self._end(sequence)
            return sequence.output(position, finish_reason=FinishReason.LENGTH)
        finish_reason = sequence.finish_reason()
        if finish_reason is not None:
            self._end(sequence)
        return sequence.output(
            position - len(draw),
            tuple(token.token_id for token in draw),
            tuple(entry for token in draw for entry in token.logprobs),
            finish_reason=finish_reason,
        )

    def _end(self, sequence: Sequence) -> None:
        del self._running[sequence.request_id]
        self._release(sequence)

    def _release(self, sequence: Sequence) -> None:
        """Free all blocks; those at the ends of its turns are found longest by a later request."""
        num_computed_tokens = sequence.num_computed_tokens
        if self._prefix_cache is not None:
            self._keep_window_at(sequence, num_computed_tokens)
        sequence.blocks.release()
        if self._prefix_cache is not None:
            self._keep_window_at(sequence, min(sequence.num_prompt_tokens, num_computed_tokens))
        sequence.num_computed_tokens = 0

    def _keep_window_at(self, sequence: Sequence, num_tokens: int) -> None:
        assert self._prefix_cache is not None
        hashes = sequence.block_hashes.of_complete_blocks(sequence.token_ids, num_tokens)
        self._prefix_cache.keep_window_before(hashes)


@contextmanager
def _as_if_computed(plan: StepPlan) -> Iterator[None]:
    """Let the plan's sequences look as they will when it is committed, but for the tokens that it draws."""
    for chunk in plan.chunks:
        chunk.sequence.num_open_tokens = chunk.num_tokens
        chunk.sequence.num_open_draws = int(chunk.draws_token)
    try:
        yield
    finally:
        for chunk in plan.chunks:
            chunk.sequence.num_open_tokens = chunk.sequence.num_open_draws = 0
