"""Experts that move while requests run: the whole way but Ray, with ranks in threads of this process."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest_asyncio

from gptoss_ray.parallel.expert_placement import contiguous
from gptoss_ray.ranks import rank_experts
from gptoss_ray.ranks.engine_loader import load_engine
from gptoss_ray.ranks.engine_rank import EngineRank
from gptoss_ray.ranks.expert_rebalancer import ExpertRebalancer
from tests.support.engine_runs import take
from tests.support.group_requests import CONFIG, REQUESTS, texts
from tests.support.serving_ranks import group_config
from tests.support.thread_collectives import ThreadLink, thread_group

NUM_RANKS = 2
CONTIGUOUS = contiguous(CONFIG.num_experts, NUM_RANKS)


class Group:
    """Ranks that are called as the actors of a RankGroup are; `told_load` replaces the load they count."""

    def __init__(self, checkpoint: str) -> None:
        parallel = {"num_spare_experts": 2, "rebalance_min_tokens": 1, "heartbeat_s": 0.01}
        self.config = group_config(checkpoint, NUM_RANKS, **parallel)
        links = [ThreadLink(collectives) for collectives in thread_group(NUM_RANKS)]

        def load(config, rank, link, suppressed_token_ids, progress):
            return load_engine(config, rank, links[rank], suppressed_token_ids, progress)

        self.ranks = [EngineRank(self.config, number, load) for number in range(NUM_RANKS)]
        self.told_load = None
        self.rebalancer = ExpertRebalancer(self.ask, CONFIG, self.config.parallel, ("here", "there"))

    async def ask(self, rank, method, *args):
        answer = await getattr(self.ranks[rank], method)(*args)
        return self.told_load or answer if method == "take_expert_load" else answer

    async def start(self) -> None:
        for rank in self.ranks:
            await rank.load()
        await asyncio.gather(*(rank.start() for rank in self.ranks))

    async def stop(self) -> None:
        await asyncio.gather(*(asyncio.to_thread(rank.stop) for rank in self.ranks))

    async def serve_until(self, is_over: asyncio.Event, expected: dict[str, object]) -> int:
        """Keep both ranks busy with the same requests over and over; returns how many answers were right."""
        rounds = [self._rounds(rank, REQUESTS[rank::NUM_RANKS], is_over) for rank in range(NUM_RANKS)]
        answers = [answer for found in await asyncio.gather(*rounds) for answer in found]
        assert all(text == expected[name] for found in answers for name, text in found.items())
        return len(answers)

    async def _rounds(self, number, requests, is_over) -> list[dict[str, object]]:
        rank, rounds = self.ranks[number], []
        stream = rank.token_stream("sink")
        while not (rounds and is_over.is_set()):
            for request in requests:
                assert await rank.submit(replace(request, sink_id="sink")) is None
            answers = {}
            while len(answers) < len(requests) or any(a.finish_reason is None for a in answers.values()):
                take(answers, await anext(stream))
            rounds.append(texts([answers]))
        await stream.aclose()
        return rounds

    async def versions(self) -> list[int]:
        return [(await rank.stats()).engine.placement for rank in self.ranks]


@pytest_asyncio.fixture
async def group(checkpoint) -> AsyncIterator[Group]:
    group = Group(checkpoint)
    await group.start()
    yield group
    await group.stop()


async def test_experts_swapped_under_running_requests_change_no_answer(group, expected):
    is_over = asyncio.Event()
    serving = asyncio.create_task(group.serve_until(is_over, expected))
    while await group.versions() == [0, 0]:
        await group.rebalancer.rebalance()
    version, other = await group.versions()
    assert version == other
    placements = group.rebalancer.placements
    assert sum(placement != CONTIGUOUS for placement in placements) >= 1
    for number, rank in enumerate(group.ranks):
        for layer, placement in zip(rank._engine.transformer.layers, placements, strict=True):
            assert layer.moe.dispatcher.local_experts == placement.local_slots(number)
            assert len(layer.moe.experts.experts) == len(placement.local_slots(number))
    is_over.set()
    assert await serving >= NUM_RANKS
    for rank in group.ranks:
        stats = (await rank.stats()).engine
        # Each token chooses equally many experts in each layer: what swapped layers had counted is not lost.
        assert len({sum(layer) for layer in stats.expert_load}) == 1
        assert stats.num_expert_rows > 0
        assert stats.all_to_all_s > 0
    assert [(await rank.stats()).num_failed_steps for rank in group.ranks] == [0, 0]


async def test_a_rank_that_cannot_read_its_experts_keeps_all_where_they_were(
    group, expected, monkeypatch, caplog
):
    group.told_load = [[90, 80, 70, 60, 1, 1, 1, 1]] * CONFIG.num_layers
    is_over = asyncio.Event()
    serving = asyncio.create_task(group.serve_until(is_over, expected))
    calls = itertools.count()
    with_swap = rank_experts.with_swap

    def fail_on_one(*args):
        if next(calls) == 1:
            raise OSError("the disk is gone")
        return with_swap(*args)

    with monkeypatch.context() as patch:
        patch.setattr(rank_experts, "with_swap", fail_on_one)
        await group.rebalancer.rebalance()
    assert caplog.messages == ["swap_dropped version=1 layer=0 reason=OSError: the disk is gone"]
    assert await group.versions() == [0, 0]
    assert group.rebalancer.placements == (CONTIGUOUS,) * CONFIG.num_layers
    is_over.set()
    await serving
    await group.rebalancer.rebalance()  # the group is idle by now: a swap waits for no request
    assert await group.versions() == [CONFIG.num_layers] * NUM_RANKS
    await group.serve_until(is_over, expected)
