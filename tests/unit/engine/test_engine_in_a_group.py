from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from gptoss_ray.engine.engine import Engine
from gptoss_ray.errors import GroupBrokenError, StepFailedError
from gptoss_ray.generation import GenerationRequest, SamplingParams
from gptoss_ray.parallel.step_sync import StepAgreement, StepDemand
from tests.support.engine_runs import run, small_config
from tests.support.fake_transformer import FakeTransformer
from tests.support.recorded_stream import RecordedStream, on_stream

EMPTY_STEP = StepAgreement(runs=True, max_num_tokens=9, max_prefill_tokens=8, placement=0)


@dataclass
class ScriptedSync:
    """Answers from a script, and keeps what it was told."""

    script: list[StepAgreement | Exception]
    demands: list[StepDemand] = field(default_factory=list)
    heartbeat_s: float | None = 0.05

    def agree(self, demand):
        self.demands.append(demand)
        answer = self.script.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


class Rank:
    """An engine of a group whose other ranks are a script."""

    def __init__(self, *script, make_executor=None):
        self.sync = ScriptedSync(list(script))
        self.transformer = FakeTransformer()
        self.num_times_left = 0
        self.engine = Engine(
            self.transformer,
            small_config(),
            step_sync=self.sync,
            leave_group=self.leave,
            make_executor=make_executor,
        )

    def leave(self):
        self.num_times_left += 1


def request(name="r", num_prompt_tokens=20):
    return GenerationRequest(name, tuple(range(num_prompt_tokens)), SamplingParams(max_tokens=5))


def test_a_step_that_others_need_runs_the_network_without_tokens():
    rank = Rank(EMPTY_STEP)
    assert rank.engine.step() == []
    assert rank.transformer.batch_sizes == [0]


def test_without_an_agreed_step_the_network_does_not_run():
    rank = Rank(StepAgreement(runs=False, max_num_tokens=0, max_prefill_tokens=0, placement=0))
    assert rank.engine.step() == []
    assert rank.transformer.num_forwards == 0


def test_it_computes_no_more_of_a_prompt_than_was_agreed():
    rank = Rank(*[EMPTY_STEP] * 3)
    rank.engine.submit(request())
    for _ in range(3):
        rank.engine.step()
    assert rank.transformer.batch_sizes == [8, 8, 4]
    assert [demand.num_prefill_tokens for demand in rank.sync.demands] == [20, 12, 4]


def test_a_request_that_was_complete_when_it_came_ends_without_a_step():
    rank = Rank(StepAgreement(runs=False, max_num_tokens=0, max_prefill_tokens=0, placement=0))
    complete = GenerationRequest("r", (1, 2), SamplingParams(max_tokens=1), emitted_token_ids=(3,))
    rank.engine.submit(complete)
    assert [output.request_id for output in rank.engine.step()] == ["r"]
    assert not rank.sync.demands[0].has_work


def test_a_forward_pass_that_fails_leaves_the_group_and_does_not_show_its_cause():
    rank = Rank(EMPTY_STEP)
    rank.transformer.failing = {1}
    rank.engine.submit(request())
    with pytest.raises(GroupBrokenError) as caught:
        rank.engine.step()
    assert "forward" not in str(caught.value)
    assert rank.num_times_left == 1


def test_a_request_that_fails_twice_is_to_blame_though_steps_of_others_come_in_between():
    without_prompts = StepAgreement(runs=True, max_num_tokens=9, max_prefill_tokens=0, placement=0)
    rank = Rank(EMPTY_STEP, without_prompts, EMPTY_STEP)
    rank.transformer.failing = {1, 3}
    rank.engine.submit(request())
    with pytest.raises(GroupBrokenError):
        rank.engine.step()
    assert rank.engine.blame() == ()
    assert rank.engine.step() == []
    with pytest.raises(GroupBrokenError):
        rank.engine.step()
    assert rank.engine.blame() == ("r",)


def test_a_group_that_broke_elsewhere_is_left_too():
    rank = Rank(GroupBrokenError("rank 1 is lost"))
    with pytest.raises(GroupBrokenError, match="rank 1"):
        rank.engine.agree()
    assert rank.num_times_left == 1


@pytest.fixture
def ahead():
    """A rank whose device works when somebody waits, and the tokens that it answers alone."""
    wanted = run(Engine(FakeTransformer(), small_config()), [request()])["r"].token_ids
    step = StepAgreement(runs=True, max_num_tokens=20, max_prefill_tokens=20, placement=0)
    return Rank(step, step, make_executor=on_stream(RecordedStream())), wanted, step


def go_on(rank, tokens, agreement):
    """Step until all tokens are there."""
    while rank.engine.has_work:
        rank.sync.script.append(agreement)
        tokens += [token for output in rank.engine.step() for token in output.token_ids]
    return tuple(tokens)


def test_a_rank_tells_what_follows_a_step_that_is_under_way_and_launches_it_before_it_reads(ahead):
    rank, wanted, step = ahead
    rank.engine.submit(request())
    assert rank.engine.step() == []
    (output,) = rank.engine.step()
    assert rank.sync.demands == [StepDemand(0, 20), StepDemand(1, 0)]
    assert go_on(rank, list(output.token_ids), step) == wanted


def test_a_group_that_breaks_while_a_step_is_under_way_loses_nothing(ahead):
    rank, wanted, step = ahead
    rank.engine.submit(request())
    rank.sync.script.append(GroupBrokenError("rank 1 is lost"))
    tokens = [token for _ in range(2) for output in rank.engine.step() for token in output.token_ids]
    with pytest.raises(GroupBrokenError):
        rank.engine.step()
    assert rank.engine.executor.stream.num_pending == 0, "nobody waits for what was dropped"
    rank.engine.change_epoch(1, FakeTransformer())
    assert go_on(rank, tokens, step) == wanted


def test_a_launch_that_fails_in_a_group_is_not_tried_again_by_one_rank_alone(ahead):
    rank, _, _ = ahead
    rank.engine.submit(request())
    rank.engine.step()
    executor = rank.engine.executor
    executor.launch = None
    with pytest.raises(StepFailedError):
        rank.engine.step()
    assert rank.num_times_left == 1


def test_what_is_under_way_is_read_before_its_experts_go(ahead):
    rank, wanted, _ = ahead
    stream, num_pending = rank.engine.executor.stream, []

    class Staged(FakeTransformer):
        @property
        def exchange(self):
            num_pending.append(stream.num_pending)

    rank.engine.submit(request())
    tokens = [token for _ in range(2) for output in rank.engine.step() for token in output.token_ids]
    assert stream.num_pending > 0
    rank.engine.stage_placement(1, Staged())
    swapped = StepAgreement(runs=True, max_num_tokens=20, max_prefill_tokens=20, placement=1)
    assert go_on(rank, tokens, swapped) == wanted
    assert num_pending[0] == 0


def test_a_step_that_was_computed_before_the_group_rests_is_still_answered(ahead):
    rank, wanted, step = ahead
    rank.engine.submit(request())
    tokens = [token for _ in range(2) for output in rank.engine.step() for token in output.token_ids]
    rank.sync.script.append(StepAgreement(runs=False, max_num_tokens=0, max_prefill_tokens=0, placement=0))
    (output,) = rank.engine.step()
    assert go_on(rank, [*tokens, *output.token_ids], step) == wanted


def test_experts_are_swapped_in_the_first_step_for_which_all_ranks_have_staged_them():
    early, due = (StepAgreement(True, 9, 8, placement) for placement in (0, 3))
    rank = Rank(early, due, due)
    staged = FakeTransformer()
    rank.engine.stage_placement(3, staged)
    for _ in range(3):
        rank.engine.step()
    assert [demand.staged_placement for demand in rank.sync.demands] == [3, 3, 3]
    assert (rank.transformer.num_forwards, staged.num_forwards) == (1, 2)
    assert rank.engine.transformer is staged
    assert rank.engine.stats().placement == 3


def test_a_rank_that_leaves_says_so():
    rank = Rank(StepAgreement(runs=False, max_num_tokens=0, max_prefill_tokens=0, placement=0, ends=True))
    assert rank.engine.agree(is_leaving=True).ends
    assert rank.sync.demands[0].is_leaving


def test_another_epoch_brings_other_experts_and_drops_a_step_and_a_swap_that_were_not_made():
    rank = Rank(EMPTY_STEP, GroupBrokenError("rank 1 is lost"), *[EMPTY_STEP] * 2)
    rank.engine.submit(request())
    rank.engine.step()
    rank.engine.stage_placement(1, FakeTransformer())
    with pytest.raises(GroupBrokenError):
        rank.engine.step()
    following = FakeTransformer()
    rank.engine.change_epoch(3, following)
    assert rank.engine.stats().placement == 3
    for _ in range(2):
        rank.engine.step()
    assert (rank.transformer.batch_sizes, following.batch_sizes) == ([8], [8, 4])
    rank.engine.stage_placement(4, FakeTransformer())
