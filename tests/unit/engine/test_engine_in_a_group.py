from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from gptoss_ray.engine.engine import Engine
from gptoss_ray.errors import GroupBrokenError
from gptoss_ray.generation import GenerationRequest, SamplingParams
from gptoss_ray.parallel.step_sync import StepAgreement, StepDemand
from tests.support.engine_runs import small_config
from tests.support.fake_transformer import FakeTransformer

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

    def __init__(self, *script):
        self.sync = ScriptedSync(list(script))
        self.transformer = FakeTransformer()
        self.num_times_left = 0
        self.engine = Engine(self.transformer, small_config(), step_sync=self.sync, leave_group=self.leave)

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
