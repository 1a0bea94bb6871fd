from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from gptoss_ray.config import ParallelConfig
from gptoss_ray.parallel.prefill_policy import PrefillPolicy

CAP = 16
configs = st.builds(
    ParallelConfig,
    max_prefill_tokens_per_step=st.just(CAP),
    max_prefill_delay_steps=st.integers(0, 5),
    min_decode_steps=st.integers(0, 3),
)
demands = st.lists(
    st.tuples(st.integers(0, 4), st.integers(0, 100), st.booleans()).map(
        lambda demand: (demand[0], demand[1], demand[2] and demand[1] > 0)
    ),
    max_size=60,
)


def limits(config: ParallelConfig, steps: list[tuple[int, int, bool]]) -> list[int]:
    """Prompt tokens granted in each step to (decode tokens, prompt tokens, all want)."""
    policy = PrefillPolicy(config)
    return [policy.advance(decodes, prompts, all_want=all_want) for decodes, prompts, all_want in steps]


def test_a_prompt_waits_for_other_ranks_prompts_so_many_steps_and_no_longer():
    config = ParallelConfig(max_prefill_delay_steps=3, max_prefill_tokens_per_step=CAP, min_decode_steps=0)
    assert limits(config, [(2, 9, False)] * 5) == [0, 0, 0, 9, 9]


def test_a_prompt_is_computed_at_once_when_every_rank_has_one():
    assert limits(ParallelConfig(max_prefill_tokens_per_step=CAP), [(2, 9, True)]) == [9]


def test_a_prompt_is_computed_at_once_and_whole_while_nobody_decodes():
    assert limits(ParallelConfig(max_prefill_tokens_per_step=CAP), [(0, 500, False)] * 3) == [500] * 3


def test_a_long_prompt_waits_once_and_then_alternates_with_decoding():
    config = ParallelConfig(max_prefill_delay_steps=2, max_prefill_tokens_per_step=CAP, min_decode_steps=1)
    assert limits(config, [(1, 500, False)] * 8) == [0, 0, CAP, 0, CAP, 0, CAP, 0]


def test_a_prompt_of_another_rank_joins_the_next_chunk_of_one_under_way():
    config = ParallelConfig(max_prefill_delay_steps=9, max_prefill_tokens_per_step=CAP, min_decode_steps=1)
    first_prompt_alone, then_nobody_decoding = [(0, 40, False)], [(1, 24, False)] * 3
    assert limits(config, first_prompt_alone + then_nobody_decoding) == [40, 0, CAP, 0]


def test_a_prompt_that_comes_after_all_others_are_done_waits_anew():
    config = ParallelConfig(max_prefill_delay_steps=1, max_prefill_tokens_per_step=CAP, min_decode_steps=0)
    assert limits(config, [(1, 5, False)] * 2 + [(1, 0, False)] + [(1, 5, False)] * 2) == [0, 5, 0, 0, 5]


@given(configs, demands)
@settings(deadline=None)
def test_no_limit_is_above_the_demand_or_the_cap_while_any_rank_decodes(config, steps):
    for (decodes, prompts, _), limit in zip(steps, limits(config, steps), strict=True):
        assert 0 <= limit <= (min(prompts, CAP) if decodes else prompts)


@given(configs, demands)
@settings(deadline=None)
def test_no_prompt_waits_longer_than_the_delay_or_the_decode_steps_owed(config, steps):
    longest = max(config.max_prefill_delay_steps, config.min_decode_steps)
    num_waited = 0
    for (_, prompts, _), limit in zip(steps, limits(config, steps), strict=True):
        num_waited = num_waited + 1 if prompts and not limit else 0
        assert num_waited <= longest


@given(configs, demands)
@settings(deadline=None)
def test_decoding_goes_on_alone_for_the_steps_owed_after_a_step_with_prompts(config, steps):
    num_alone = config.min_decode_steps
    for (decodes, _, _), limit in zip(steps, limits(config, steps), strict=True):
        if not decodes:
            num_alone = 0 if limit else config.min_decode_steps
        elif limit:
            assert num_alone >= config.min_decode_steps
            num_alone = 0
        else:
            num_alone += 1
