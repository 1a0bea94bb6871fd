from __future__ import annotations

import asyncio
import logging

import pytest

from gptoss_ray.checkpoint.synthetic import tiny_config
from gptoss_ray.config import ParallelConfig
from gptoss_ray.errors import CheckpointError, UnavailableError
from gptoss_ray.parallel.expert_placement import contiguous
from gptoss_ray.ranks.expert_rebalancer import ExpertRebalancer

MODEL = tiny_config(num_layers=2)
CONFIG = ParallelConfig(
    num_ranks=2, num_spare_experts=1, rebalance_min_tokens=100, rebalance_interval_s=0.001
)
HOT = [90, 80, 70, 60, 1, 1, 1, 1]
EVEN = [40] * 8
CONTIGUOUS = contiguous(MODEL.num_experts, 2)


class Ranks:
    """Two ranks that report the same load, note what they are asked, and fail on demand."""

    def __init__(self, *load_of_layers):
        self.load = list(load_of_layers)
        self.asked = []
        self.failing = {}
        self.prepare_s = [0.0, 0.0]
        self.num_preparing = 0

    async def ask(self, rank, method, *args):
        self.asked.append((rank, method, *args))
        if method == "prepare_swap":
            self.num_preparing += 1
            await asyncio.sleep(self.prepare_s[rank])
            self.num_preparing -= 1
        if (rank, method) in self.failing:
            raise self.failing[rank, method]
        return self.load if method == "take_expert_load" else None

    def methods(self, rank=0):
        return [method for number, method, *_ in self.asked if number == rank]


def rebalancer(ranks):
    return ExpertRebalancer(ranks.ask, MODEL, CONFIG, ("a", "a"))


async def test_only_the_layer_that_gains_is_swapped_and_every_rank_prepares_before_any_is_told():
    ranks = Ranks(EVEN, HOT)
    group = rebalancer(ranks)
    await group.rebalance()
    assert ranks.methods(0) == ranks.methods(1) == ["take_expert_load", "prepare_swap", "make_swap"]
    assert [method for _, method, *_ in ranks.asked] == sorted(ranks.methods() * 2, key=ranks.methods().index)
    assert group.placements[0] == CONTIGUOUS != group.placements[1]
    swap = ranks.asked[2][2]
    assert (swap.version, swap.layer, swap.hosts) == (1, 1, ("a", "a"))
    assert swap.placement == group.placements[1]


async def test_a_swap_that_was_made_is_told():
    swaps = []
    told = ExpertRebalancer(
        Ranks(HOT, EVEN).ask, MODEL, CONFIG, ("a", "a"), note_swap=lambda *swap: swaps.append(swap)
    )
    await told.rebalance()
    assert swaps == [(0, 1)]


async def test_layers_are_swapped_one_by_one_under_growing_versions_and_then_stay():
    ranks = Ranks(HOT, HOT)
    group = rebalancer(ranks)
    await group.rebalance()
    assert ranks.methods()[1:] == ["prepare_swap", "make_swap"] * 2
    assert [args[0] for rank, method, *args in ranks.asked if (rank, method) == (0, "make_swap")] == [1, 2]
    ranks.asked.clear()
    await group.rebalance()
    assert ranks.methods() == ["take_expert_load"]


async def test_load_is_gathered_until_it_is_enough_to_judge_by():
    ranks = Ranks(*[[tokens // 2 for tokens in HOT]] * 2)  # 75 tokens of both ranks, at 4 experts each
    group = rebalancer(ranks)
    await group.rebalance()
    assert group.placements == (CONTIGUOUS,) * 2
    await group.rebalance()
    assert CONTIGUOUS not in group.placements


async def test_a_rank_that_cannot_prepare_leaves_all_on_the_old_placement_and_says_so_in_one_line(caplog):
    ranks = Ranks(HOT, HOT)
    ranks.failing[1, "prepare_swap"] = CheckpointError("model.safetensors:\nis gone")
    group = rebalancer(ranks)
    with caplog.at_level(logging.WARNING):
        await group.rebalance()
    assert ranks.methods(0) == ranks.methods(1) == ["take_expert_load", "prepare_swap"]
    assert group.placements == (CONTIGUOUS,) * 2
    assert [record.getMessage() for record in caplog.records] == [
        "swap_dropped version=1 layer=0 reason=CheckpointError: model.safetensors: is gone"
    ]
    ranks.failing.clear()
    await group.rebalance()
    assert CONTIGUOUS not in group.placements


async def test_a_failed_preparation_is_not_over_before_that_of_the_other_rank():
    ranks = Ranks(HOT, HOT)
    ranks.failing[0, "prepare_swap"] = OSError("no")
    ranks.prepare_s[1] = 0.05
    await rebalancer(ranks).rebalance()
    assert ranks.num_preparing == 0


@pytest.mark.parametrize("method", ["take_expert_load", "make_swap"])
async def test_it_ends_with_a_rank_that_does_not_answer(method, caplog):
    ranks = Ranks(HOT, HOT)
    ranks.failing[1, method] = UnavailableError("rank 1 died")
    with caplog.at_level(logging.WARNING):
        await asyncio.wait_for(rebalancer(ranks).run(), 10)
    assert [record.getMessage() for record in caplog.records] == [
        "rebalancing_ended version=0 reason=UnavailableError: rank 1 died"
    ]


async def test_it_goes_on_until_it_is_cancelled():
    ranks = Ranks(EVEN, EVEN)
    task = asyncio.create_task(rebalancer(ranks).run())
    while len(ranks.methods()) < 3:
        await asyncio.sleep(0.001)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
