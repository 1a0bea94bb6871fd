"""Law 1 across ranks: equal tokens and equal logprob bits, however many ranks share the experts."""

from __future__ import annotations

import pytest
import torch

from gptoss_ray.errors import GroupBrokenError
from gptoss_ray.generation import GenerationRequest, SamplingParams
from gptoss_ray.parallel.expert_placement import LayerPlacement
from gptoss_ray.ranks.layer_swap import LayerSwap
from gptoss_ray.ranks.rank_experts import with_swap
from tests.support.drafters import knowing
from tests.support.engine_runs import small_config
from tests.support.group_requests import CONFIG, PATTERNS, answers_of_one, arrivals_of, texts
from tests.support.serving_ranks import group_config, serve_in_threads


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("dispatch", ["padded", "exact"])
@pytest.mark.parametrize("num_ranks", [1, 2, 3, 4])
def test_any_number_of_ranks_answers_as_one(checkpoint, expected, num_ranks, dispatch, pattern):
    check_group(checkpoint, small_config(), expected, num_ranks, dispatch, pattern)


@pytest.mark.parametrize("dispatch", ["padded", "exact"])
def test_ranks_that_compute_with_torch_answer_as_one(checkpoint, dispatch):
    engine = small_config(kernels="torch")
    expected = answers_of_one(checkpoint, engine)
    check_group(checkpoint, engine, expected, 3, dispatch, "random arrivals")


@pytest.mark.parametrize("dispatch", ["padded", "exact"])
@pytest.mark.parametrize("num_ranks", [2, 3])
def test_ranks_that_draft_each_for_itself_answer_as_one(checkpoint, expected, num_ranks, dispatch):
    answers = {name: text[0] for name, text in expected.items()}

    def give_drafter(step, rank):
        if step == 0 and rank.link.rank > 0:  # one has none
            rank.engine._speculation._drafter = knowing(answers, CONFIG.vocab_size, rank.link.rank)

    config = group_config(checkpoint, num_ranks, dispatch=dispatch)
    config = config.model_copy(update={"engine": small_config(speculation="ngram")})
    ranks = serve_in_threads(config, arrivals_of("all ranks", num_ranks), give_drafter)
    assert texts([rank.answers for rank in ranks]) == expected
    assert len({rank.link.collectives.num_calls for rank in ranks}) == 1
    num_accepted = [rank.engine.stats().num_accepted_tokens for rank in ranks]
    assert num_accepted[0] < min(num_accepted[1:])


def check_group(checkpoint, engine, expected, num_ranks, dispatch, pattern):
    policy = {"max_prefill_tokens_per_step": 16, "max_prefill_delay_steps": 2}
    config = group_config(checkpoint, num_ranks, dispatch=dispatch, **policy)
    config = config.model_copy(update={"engine": engine})
    ranks = serve_in_threads(config, arrivals_of(pattern, num_ranks))
    assert texts([rank.answers for rank in ranks]) == expected
    assert len({rank.link.collectives.num_calls for rank in ranks}) == 1


def test_a_placement_swapped_while_requests_run_changes_no_answer(checkpoint, expected):
    placement = LayerPlacement(((7, 0, 1, 2, 3), (4, 5, 6, 0, 7)))
    swap = LayerSwap(1, 0, placement, ("here", "there"))
    swapped_at = {}

    def stage(step, rank):
        number = rank.link.rank
        if step == 3 + 4 * number:  # one rank is ready before the other
            rank.engine.stage_placement(1, with_swap(rank.engine.transformer, checkpoint, swap))
        layers = rank.engine.transformer.layers
        if [len(layer.moe.experts.experts) for layer in layers] == [5, 4]:
            swapped_at.setdefault(number, step)

    ranks = serve_in_threads(group_config(checkpoint, 2), arrivals_of("all ranks", 2), stage)
    assert swapped_at == {0: 8, 1: 8}
    assert texts([rank.answers for rank in ranks]) == expected


def test_a_group_with_a_long_prompt_goes_on_decoding_between_its_chunks(checkpoint):
    stream = GenerationRequest("stream", (5,), SamplingParams(temperature=0.0, max_tokens=30))
    long = GenerationRequest("long", tuple(range(200)), SamplingParams(temperature=0.0, max_tokens=1))
    num_tokens_at = {}

    def watch(step, rank):
        if "stream" in rank.answers:
            num_tokens_at[step] = len(rank.answers["stream"].token_ids)

    config = group_config(checkpoint, 2, max_prefill_tokens_per_step=16)
    serve_in_threads(config, [(0, 0, stream), (3, 1, long)], watch)
    steps = sorted(num_tokens_at)
    assert [num_tokens_at[step] for step in steps][:30] == list(range(1, 31))


def test_one_rank_that_fails_in_its_step_breaks_the_step_of_all(checkpoint):
    seen = {}

    def fail(step, rank):
        if step != 4:
            return
        if rank.link.rank == 1:
            rank.engine._executor.transformer = None
        with pytest.raises(GroupBrokenError) as caught:
            rank.engine.run(rank.engine.agree())
        seen[rank.link.rank] = str(caught.value)
        raise caught.value

    with pytest.raises(GroupBrokenError):
        serve_in_threads(group_config(checkpoint, 3), arrivals_of("all ranks", 3), fail)
    assert seen.keys() == {0, 1, 2}
    assert "step failed" in seen[1]


def test_the_random_model_does_use_experts_of_every_rank(checkpoint):
    """Else equality would say little."""
    loads = {}

    def watch(step, rank):
        loads[rank.link.rank] = sum(
            layer.moe.dispatcher.expert_load for layer in rank.engine._executor.transformer.layers
        )

    serve_in_threads(group_config(checkpoint, 2), arrivals_of("all ranks", 2), watch)
    assert torch.stack(list(loads.values())).sum(0).min() > 0
