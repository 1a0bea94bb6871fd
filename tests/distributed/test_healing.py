"""A group that loses a rank goes on: survivors keep their sequences, lost requests resume, all bits equal."""

from __future__ import annotations

import signal

import pytest

from gptoss_ray.config import ParallelConfig, ServedModelConfig
from gptoss_ray.generation import GenerationRequest, SamplingParams
from gptoss_ray.ranks.recovery import RankId
from tests.support.engine_runs import small_config
from tests.support.group_requests import CONFIG
from tests.support.group_serving import answers_of_one
from tests.support.healing_group import HealingGroup
from tests.support.member_process import POINTS

NUM_RANKS = 3
NUM_REQUESTS = 6

pytestmark = pytest.mark.timeout(300)


def request(number: int, max_tokens: int = 60) -> GenerationRequest:
    """Greedy for even numbers, else drawn with a seed; prompts of several steps; logprobs always."""
    prompt = tuple((7 * number + 3 * place) % CONFIG.vocab_size for place in range(40 + 13 * number))
    params = SamplingParams(
        temperature=float(number % 2), top_p=0.95, seed=number, max_tokens=max_tokens, logprobs=2
    )
    return GenerationRequest(f"r{number}", prompt, params)


REQUESTS = [request(number) for number in range(NUM_REQUESTS)]


def group_config(checkpoint: str, **parallel: object) -> ServedModelConfig:
    fields = {"num_ranks": NUM_RANKS, "heartbeat_s": 0.02, "max_prefill_tokens_per_step": 16} | parallel
    return ServedModelConfig(
        name="m",
        checkpoint=checkpoint,
        engine=small_config(kv_cache_bytes=4 << 20),
        parallel=ParallelConfig.model_validate(fields),
    )


@pytest.fixture(scope="module")
def expected_answers(checkpoint):
    return answers_of_one(group_config(checkpoint), REQUESTS)


async def submit_all(group: HealingGroup) -> None:
    for number, each in enumerate(REQUESTS):
        await group.submit(each, RankId(number % NUM_RANKS))


async def check_all(group: HealingGroup, lost: RankId, expected_answers) -> None:
    """All answers are right, only the lost rank's requests were sent again, and nothing is left behind."""
    await group.until_over()
    assert group.texts() == expected_answers
    for number, each in enumerate(REQUESTS):
        assert (group.streams[each.request_id].num_resumed > 0) == (number % NUM_RANKS == lost.number)
    await group.until_whole()
    assert group.ended == [lost]
    assert group.late == []
    assert group.keeper.open_ranks == [
        rank.next() if rank == lost else rank for rank in map(RankId, range(NUM_RANKS))
    ]
    await group.until(lambda: True)
    assert [held for held, _ in await group.usage(group.keeper.open_ranks)] == [0] * NUM_RANKS
    # The group that has healed gives the same answers, the replacement too.
    group.streams.clear()
    open_ranks = group.keeper.open_ranks
    for number, each in enumerate(REQUESTS):
        await group.submit(each, open_ranks[number % NUM_RANKS])
    await group.until_over()
    assert group.texts() == expected_answers


async def test_a_rank_killed_under_requests_loses_nothing(checkpoint, expected_answers):
    async with HealingGroup(group_config(checkpoint)) as group:
        await submit_all(group)
        await group.until(lambda: all(len(s.answer.token_ids) > 5 for s in group.streams.values()))
        group.processes[RankId(0)].kill()
        await check_all(group, RankId(0), expected_answers)


async def test_a_rank_that_stops_is_fenced_and_emits_nothing_when_it_wakes_up(checkpoint, expected_answers):
    async with HealingGroup(group_config(checkpoint, lease_s=1.0)) as group:
        stopped, kill = RankId(1), group._kill
        group._kill = lambda rank: None if rank == stopped else kill(rank)  # as though it were out of reach
        await submit_all(group)
        await group.until(lambda: all(len(s.answer.token_ids) > 5 for s in group.streams.values()))
        group.processes[stopped].signal(signal.SIGSTOP)
        await group.until(lambda: stopped in group.ended)
        group.processes[stopped].signal(signal.SIGCONT)
        await check_all(group, stopped, expected_answers)


@pytest.mark.chaos
@pytest.mark.parametrize("lost", range(NUM_RANKS))
@pytest.mark.parametrize("point", ["in prefill", "mid-dispatch", "before combine", "before commit"])
async def test_a_rank_killed_at_any_point_of_a_step_loses_nothing(checkpoint, expected_answers, point, lost):
    async with HealingGroup(group_config(checkpoint)) as group:
        await group.ask(RankId(lost), "arm", point, 5, signal.SIGKILL)
        await submit_all(group)
        await check_all(group, RankId(lost), expected_answers)
        assert group.fired == [(RankId(lost), point)]


def test_every_point_is_tested():
    assert set(POINTS) == {
        "in prefill",
        "mid-dispatch",
        "before combine",
        "before commit",
        "while it reads experts",
        "while it joins",
    }
