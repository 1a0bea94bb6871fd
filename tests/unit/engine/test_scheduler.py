from __future__ import annotations

from types import SimpleNamespace

import pytest

from gptoss_ray.engine.sampler import SampledToken
from gptoss_ray.engine.scheduler import Scheduler
from gptoss_ray.engine.sequence import Sequence
from gptoss_ray.engine.speculation import Speculation
from gptoss_ray.engine.step_plan import PlanDraft
from gptoss_ray.errors import InternalError
from gptoss_ray.generation import FinishReason, GenerationRequest, SamplingParams
from gptoss_ray.kvcache.block_pool import BlockPool
from gptoss_ray.kvcache.block_table import BlockTable
from gptoss_ray.kvcache.geometry import KVGeometry
from gptoss_ray.kvcache.prefix_cache import PrefixCache
from gptoss_ray.parallel.step_sync import StepDemand

BUDGET = 16


class Bench:
    """A scheduler whose model always says token 5."""

    def __init__(self, num_blocks=100, budget=BUDGET, max_num_sequences=8, speculation=None):
        self.geometry = KVGeometry(block_size=4, window=6, max_chunk=budget)
        self.pool = BlockPool(num_blocks)
        self.scheduler = Scheduler(
            self.pool,
            PrefixCache(self.pool, self.geometry),
            max_num_sequences=max_num_sequences,
            max_num_batched_tokens=budget,
            speculation=speculation,
        )
        self.num_added = 0

    def add(self, request_id, num_prompt_tokens, max_tokens=50, first_token=None):
        # Prompts differ from the first token on, so that nothing is shared unless a test wants it.
        self.num_added += 1
        first = self.num_added if first_token is None else first_token
        prompt = (first, *range(1, num_prompt_tokens))
        request = GenerationRequest(request_id, prompt, SamplingParams(max_tokens=max_tokens))
        self.scheduler.add(Sequence(request, BlockTable(self.pool, self.geometry), max_context=1000))

    def plan(self):
        return self.scheduler.schedule()

    def step(self):
        plan = self.plan()
        return self.scheduler.commit(plan, [(SampledToken(5),) for _ in plan.drawing_sequences()])

    def planned(self):
        """(request id, tokens) of the next step, which is then done."""
        plan = self.plan()
        chunks = [(chunk.sequence.request_id, chunk.num_tokens) for chunk in plan.chunks]
        self.scheduler.commit(plan, [(SampledToken(5),) for _ in plan.drawing_sequences()])
        return chunks


def test_decodes_come_first_then_prompts_in_order_of_arrival_under_the_budget():
    bench = Bench()
    bench.add("a", 3)
    assert bench.planned() == [("a", 3)]
    bench.add("long", 40)
    bench.add("b", 5)
    assert bench.planned() == [("a", 1), ("long", 15)]
    assert bench.planned() == [("a", 1), ("long", 15)]
    assert bench.planned() == [("a", 1), ("long", 10), ("b", 5)]
    assert bench.planned() == [("a", 1), ("long", 1), ("b", 1)]


def test_a_decode_is_not_delayed_by_an_earlier_prompt_that_came_back():
    bench = Bench()
    bench.add("a", 30)
    bench.add("b", 1)
    assert bench.planned() == [("a", 16)]
    plan = bench.plan()  # dropped, as after a failed forward pass: both are admitted, none computed
    assert [chunk.sequence.request_id for chunk in plan.chunks] == ["a", "b"]
    assert bench.planned() == [("b", 1), ("a", 14)]


def test_only_the_last_chunk_of_a_prompt_draws():
    bench = Bench()
    bench.add("long", 20)
    assert [chunk.draws_token for chunk in bench.plan().chunks] == [False]
    assert bench.step() == []
    assert [output.token_ids for output in bench.step()] == [(5,)]


def test_no_more_sequences_run_than_seats():
    bench = Bench(max_num_sequences=2)
    for name in "abc":
        bench.add(name, 2, max_tokens=2)
    assert bench.planned() == [("a", 2), ("b", 2)]
    assert bench.planned() == [("a", 1), ("b", 1)]
    assert bench.planned() == [("c", 2)]


def test_the_latest_arrival_is_preempted_and_comes_back_before_all_that_never_ran():
    bench = Bench(num_blocks=18)
    for name in ("first", "second", "third", "never ran"):
        bench.add(name, 7)
    bench.step()
    assert list(bench.scheduler._running) == ["first", "second", "third"]
    for _ in range(30):
        bench.step()
        if bench.scheduler.num_preemptions:
            break
    assert list(bench.scheduler._running) == ["first", "second"]
    assert list(bench.scheduler._waiting) == ["third", "never ran"]


def test_a_prompt_is_not_started_on_blocks_that_a_running_prompt_still_needs():
    bench = Bench(num_blocks=24, budget=8)
    bench.add("long", 44)
    bench.add("next", 6)
    bench.step()
    assert bench.scheduler.num_running == 1
    while bench.scheduler._running["long"].num_uncomputed_tokens > 1:
        bench.step()
    assert bench.scheduler.num_preemptions == 0


def test_nobody_overtakes_a_request_that_waits_for_blocks():
    bench = Bench(num_blocks=24)
    bench.add("running", 16)
    bench.step()
    bench.add("large", 40)
    bench.add("small", 2)
    assert bench.planned() == [("running", 1)]


def test_a_dropped_plan_moves_no_sequence_and_is_made_again():
    bench = Bench(num_blocks=30)
    bench.add("a", 20)
    bench.add("b", 9)
    bench.step()
    dropped = bench.plan()
    again = bench.plan()
    assert dropped == again
    assert [chunk.start for chunk in again.chunks] == [16, 0]
    assert bench.pool.find(b"f" + next(iter(again.chunks)).sequence.block_hashes._hashes[0]) is not None
    assert len(bench.pool._block_of) == 2 * 4  # of the committed step only


def test_a_failed_draw_ends_its_sequence_and_frees_its_blocks():
    bench = Bench()
    bench.add("good", 3)
    bench.add("bad", 3)
    plan = bench.plan()
    error = InternalError("no")
    good, bad = bench.scheduler.commit(plan, [(SampledToken(5),), error])
    assert (good.token_ids, good.finish_reason) == ((5,), None)
    assert (bad.token_ids, bad.finish_reason, bad.error) == ((), FinishReason.ERROR, error)
    assert "bad" not in bench.scheduler
    assert bench.pool.num_references(bench.scheduler._running["good"].blocks.full[0]) == 1
    bench.scheduler.abort("good")
    assert bench.pool.num_free == bench.pool.num_blocks


@pytest.mark.parametrize("num_left", [12, 10, 8, 6])
def test_the_ends_of_a_prompt_are_found_longest_under_pressure(num_left):
    bench = Bench(num_blocks=60)
    bench.add("first", 16, max_tokens=40, first_token=0)
    while bench.scheduler.num_running or bench.scheduler.num_waiting:
        bench.step()
    taken = [bench.pool.allocate() for _ in range(60 - num_left)]
    for block_id in taken:
        bench.pool.release(block_id)
    bench.add("again", 17, first_token=0)
    assert bench.planned() == [("again", 1)]


def demanded(bench):
    demand = bench.scheduler.demand()
    return demand.num_decode_tokens, demand.num_prefill_tokens


def test_the_demand_ahead_is_what_is_planned_behind_a_step_that_is_not_read():
    bench = Bench()
    bench.add("a", 20)
    bench.add("short", 1, max_tokens=1)
    launched = bench.plan()
    for demand, chunks in (((0, 5), [("a", 4), ("short", 1)]), ((1, 0), [("a", 1)]), ((1, 0), [("a", 1)])):
        ahead = bench.scheduler.demand_ahead(launched)
        plan = bench.scheduler.schedule_ahead(launched, ahead.num_prefill_tokens)
        assert (ahead.num_decode_tokens, ahead.num_prefill_tokens) == demand
        assert [(chunk.sequence.request_id, chunk.num_tokens) for chunk in plan.chunks] == chunks
        draws = [(SampledToken(5),)] * len(launched.drawing_sequences())
        bench.scheduler.commit(launched, draws)
        launched = plan


def test_prompts_that_are_held_back_are_not_planned_ahead():
    bench = Bench()
    bench.add("a", 20)
    launched = bench.plan()
    assert bench.scheduler.demand_ahead(launched) == StepDemand(0, 4)
    assert bench.scheduler.schedule_ahead(launched, 0).chunks == ()


def test_the_demand_is_the_decodes_and_the_tokens_of_prompts_under_the_budget():
    bench = Bench()
    assert demanded(bench) == (0, 0)
    bench.add("a", 3)
    bench.add("b", 2)
    assert demanded(bench) == (0, 5)
    bench.step()
    assert demanded(bench) == (2, 0)
    bench.add("long", 40)
    assert demanded(bench) == (2, BUDGET - 2)
    bench.step()
    bench.step()
    assert demanded(bench) == (2, 40 - 2 * (BUDGET - 2))


def test_a_prompt_that_finds_no_seat_or_no_blocks_is_not_wanted():
    seats = Bench(max_num_sequences=1)
    seats.add("running", 2)
    seats.step()
    seats.add("waits", 5)
    assert demanded(seats) == (1, 0)
    blocks = Bench(num_blocks=24)
    blocks.add("running", 16)
    blocks.step()
    blocks.add("large", 40)
    assert demanded(blocks) == (1, 0)
    blocks.scheduler.abort("running")
    assert demanded(blocks) == (0, BUDGET)


@pytest.mark.parametrize("num_prompt_tokens", [1, 2, 7, 40])
def test_a_plan_has_its_share_of_prompt_tokens_and_no_decode_is_held(num_prompt_tokens):
    bench = Bench()
    bench.add("decodes", 3)
    bench.step()
    for name in "abcdef":
        bench.add(name, num_prompt_tokens)
    for max_prefill_tokens in (0, 1, 3, 5, 0, 16):
        num_decodes, num_prefill_tokens = demanded(bench)
        plan = bench.scheduler.schedule(max_prefill_tokens)
        decodes = [chunk for chunk in plan.chunks if chunk.start and chunk.num_tokens == chunk.draws_token]
        assert len(decodes) == num_decodes
        num_planned = sum(chunk.num_tokens for chunk in plan.chunks)
        assert num_planned - num_decodes == min(max_prefill_tokens, num_prefill_tokens)
        bench.scheduler.commit(plan, [(SampledToken(5),) for _ in plan.drawing_sequences()])


def test_a_prompt_held_half_way_goes_on_where_it_was():
    bench = Bench()
    bench.add("long", 20)
    starts = []
    for max_prefill_tokens in (8, 0, 8, 0, 8):
        plan = bench.scheduler.schedule(max_prefill_tokens)
        starts += [(chunk.start, chunk.num_tokens) for chunk in plan.chunks]
        bench.scheduler.commit(plan, [(SampledToken(5),) for _ in plan.drawing_sequences()])
    assert starts == [(0, 8), (8, 8), (16, 4)]


def test_an_urgent_step_takes_fewer_tokens_of_a_prompt_the_longer_it_is_but_always_one():
    def chunk_lengths(*, is_urgent: bool) -> list[int]:
        lengths = []
        for num_computed in (0, 1023, 1024, 4096, 40_000):
            sequence = SimpleNamespace(
                unscored=range(0),
                is_decoding=False,
                next_start=num_computed,
                num_uncomputed_tokens=99,
            )
            lengths.append(PlanDraft(64, 20, is_urgent=is_urgent).affordable(sequence))
        return lengths

    assert chunk_lengths(is_urgent=False) == [20] * 5
    assert chunk_lengths(is_urgent=True) == [20, 20, 10, 4, 1]


class FiveAlways:
    """Drafts what the model says."""

    def propose(self, sequences, max_lengths):
        return [(5,) * length for length in max_lengths]


def drafting_bench(**sizes):
    return Bench(speculation=Speculation(FiveAlways(), 4, None), **sizes)


def drafted_step(bench):
    """Rows of each chunk of a step whose drafts are all right, and the demand before it."""
    demand = bench.scheduler.demand()
    plan = bench.plan()
    draws = [(SampledToken(5),) * (1 + len(plan.drafts.get(each, ()))) for each in plan.drawing_sequences()]
    bench.scheduler.commit(plan, draws)
    rows = [chunk.num_rows for chunk in plan.chunks]
    assert sum(rows) <= demand.num_decode_tokens + demand.num_prefill_tokens
    return rows


def test_drafts_are_demanded_and_take_what_decodes_and_prompts_leave_of_the_budget():
    bench = drafting_bench()
    for name in "ab":
        bench.add(name, 3)
    assert drafted_step(bench) == [3, 3]
    assert drafted_step(bench) == [5, 5]
    bench.add("long", 9)
    assert drafted_step(bench) == [5, 2, 9]  # of 16
    bench.add("longer", 30)
    assert drafted_step(bench) == [1, 1, 1, 13]


def test_a_draft_that_is_right_moves_its_sequence_by_all_of_it():
    bench = drafting_bench()
    bench.add("a", 3, max_tokens=14)
    drafted_step(bench)
    assert [drafted_step(bench) for _ in range(3)] == [[5], [5], [3]]
    assert bench.scheduler.num_running == 0
    assert bench.pool.num_free == bench.pool.num_blocks


def test_drafts_are_those_of_the_last_demand_and_planned_once():
    bench = drafting_bench()
    bench.add("a", 3)
    drafted_step(bench)
    bench.scheduler.demand()
    assert [chunk.num_rows for chunk in bench.plan().chunks] == [5]
    assert [chunk.num_rows for chunk in bench.plan().chunks] == [1]


def test_a_draft_takes_free_blocks_but_nobody_is_preempted_for_it():
    bench = drafting_bench(num_blocks=8)
    bench.add("a", 6)
    drafted_step(bench)
    taken = [bench.pool.allocate() for _ in range(bench.pool.num_free)]
    assert drafted_step(bench) == [2]  # up to the end of its block of four
    for block_id in taken:
        bench.pool.release(block_id)
    assert drafted_step(bench) == [5]
    assert bench.scheduler.num_preemptions == 0


def test_suspects_are_planned_without_drafts():
    bench = drafting_bench()
    bench.add("a", 3)
    drafted_step(bench)
    bench.scheduler.suspect(["a"])
    assert drafted_step(bench) == [1]
    assert drafted_step(bench) == [5]


def test_of_a_refused_draft_no_block_is_published_and_its_place_is_computed_again():
    bench = drafting_bench()
    bench.add("a", 3)
    bench.step()
    bench.scheduler.demand()
    plan = bench.plan()
    [chunk] = plan.chunks
    assert (chunk.start, chunk.num_rows) == (3, 5)
    bench.scheduler.commit(plan, [(SampledToken(5), SampledToken(9))])
    sequence = chunk.sequence
    assert sequence.token_ids[3:] == [5, 5, 9]
    assert sequence.num_computed_tokens == 5
    assert len(bench.pool._block_of) == 2  # the first four tokens, of both groups
    bench.scheduler.demand()
    assert [chunk.start for chunk in bench.plan().chunks] == [5]
