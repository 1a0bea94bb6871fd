"""Exchanges through memory that all ranks have mapped: here threads, with a barrier of threads."""

from __future__ import annotations

import random
import threading
import time
from types import SimpleNamespace

import pytest
import torch

from gptoss_ray.config import ParallelConfig
from gptoss_ray.errors import ConfigError
from gptoss_ray.parallel import symmetric_memory
from gptoss_ray.parallel.expert_placement import contiguous
from gptoss_ray.parallel.symmetric_memory import (
    SymmetricAllToAll,
    map_memory,
    memory_bytes,
    place_bytes_of,
)
from tests.support.local_token_dispatcher import LocalTokenDispatcher
from tests.support.thread_collectives import ThreadLink, ThreadStream, run_ranks
from tests.unit.parallel.test_all_to_all import (
    E,
    bits,
    make_dispatcher,
    make_exchange,
    random_experts,
    random_tokens,
    through,
)

NUM_BYTES = 100_000


class ThreadMemory:
    """What ranks that are threads share; who comes out of a barrier may be slow to go on."""

    def __init__(self, world_size):
        self.world_size = world_size
        self.barrier = threading.Barrier(world_size)
        size = memory_bytes(NUM_BYTES, world_size)
        self.tensors = [torch.full((size,), 0xA5, dtype=torch.uint8) for _ in range(world_size)]

    def of(self, rank):
        return _Handle(self, rank)


class _Handle:
    def __init__(self, memory, rank):
        self.rank, self.world_size = rank, memory.world_size
        self._memory = memory
        self._random = random.Random(rank)

    def get_buffer(self, rank, sizes, dtype, storage_offset=0):
        count = torch.Size(sizes).numel()
        return self._memory.tensors[rank].view(dtype)[storage_offset : storage_offset + count].view(sizes)

    def barrier(self, channel=0, timeout_ms=0):
        self._memory.barrier.wait(30)
        time.sleep(self._random.choice([0, 0, 0.002]))


def on_memory(world_size, work):
    """Run `work(all_to_all, collectives)` on every rank."""
    place_bytes = place_bytes_of(NUM_BYTES, world_size)
    memory = ThreadMemory(world_size)

    def be_rank(collectives):
        handle = memory.of(collectives.rank)
        return work(SymmetricAllToAll(handle, place_bytes, ThreadStream(collectives)), collectives)

    return run_ranks(world_size, be_rank)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.int64, torch.uint8])
@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_rows_arrive_in_the_order_of_ranks_however_fast_each_of_them_is(world_size, dtype):
    def work(all_to_all, collectives):
        rank = collectives.rank
        for turn in range(30):
            count = turn % 4
            named = torch.arange(world_size).repeat_interleave(count)[:, None].expand(-1, 6)
            sent = (10 * rank + named + turn).to(dtype).contiguous()
            out = torch.empty_like(sent)
            assert all_to_all.all_to_all(sent, [count] * world_size, [count] * world_size, out) is out
            expected = (10 * named + rank + turn).to(dtype)
            assert torch.equal(out, expected)

    on_memory(world_size, work)


@pytest.mark.parametrize("world_size", [2, 3])
def test_ranks_that_share_memory_make_the_bits_that_one_rank_makes(world_size):
    generator = torch.Generator().manual_seed(1)
    shard = random_experts(generator, torch.bfloat16)
    placement = contiguous(E, world_size)
    steps = [[random_tokens(generator, num_tokens) for num_tokens in step] for step in ([5, 0, 7], [1, 1, 1])]

    def work(all_to_all, collectives):
        class Link(ThreadLink):
            streamed = all_to_all

        exchange = make_exchange(Link(collectives, is_streamed=True), "padded")
        dispatcher = make_dispatcher(exchange, placement)
        results = []
        for of_ranks in steps:
            dispatcher.begin_step(7)
            experts = shard(placement.local_slots(collectives.rank))
            results.append(through(dispatcher, experts, *of_ranks[collectives.rank]))
        return results

    local, all_experts = LocalTokenDispatcher(E), shard(range(E))
    for rank, results in enumerate(on_memory(world_size, work)):
        expected = [through(local, all_experts, *of_ranks[rank]) for of_ranks in steps]
        assert bits(results) == bits(expected)


def test_more_than_the_memory_holds_is_never_written():
    def work(all_to_all, collectives):
        count = place_bytes_of(NUM_BYTES, 2) + 1
        with pytest.raises(AssertionError, match="larger than the memory"):
            all_to_all.all_to_all(torch.zeros(2 * count, 1, dtype=torch.uint8), [count] * 2, [count] * 2)

    on_memory(2, work)


@pytest.mark.parametrize(("num_bytes", "num_ranks"), [(0, 2), (1, 3), (100_001, 8), (4 << 20, 7)])
def test_a_place_holds_what_a_rank_sends_another_of_the_largest_padded_step(num_bytes, num_ranks):
    place = place_bytes_of(num_bytes, num_ranks)
    assert place % 16 == 0
    assert num_bytes <= place * num_ranks < num_bytes + 17 * num_ranks
    assert memory_bytes(num_bytes, num_ranks) == 2 * num_ranks * place


def test_cards_that_cannot_share_memory_are_refused_with_what_to_do(monkeypatch):
    """As here, where there is none."""
    monkeypatch.setenv("TORCH_SYMM_MEM_ALLOW_OVERLAPPING_DEVICES", "1")
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    with pytest.raises(ConfigError, match="set it to 'auto'") as caught:
        map_memory(1024)
    assert caught.value.param == "parallel.collectives"
    assert not symmetric_memory._KEPT


def test_what_torch_maps_is_kept_for_as_long_as_the_process_lives(monkeypatch):
    import torch.distributed._symmetric_memory as torchs

    monkeypatch.setenv("TORCH_SYMM_MEM_ALLOW_OVERLAPPING_DEVICES", "1")
    group, memory = object(), SimpleNamespace(rank=0, world_size=1)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 3)
    monkeypatch.setattr(torch.distributed, "group", SimpleNamespace(WORLD=group))
    monkeypatch.setattr(symmetric_memory, "_KEPT", [])
    asked = []

    def empty(*sizes, dtype, device):
        asked.append((sizes, dtype, device))
        return 7

    def rendezvous(tensor, of):
        asked.append((tensor, of))
        return memory

    monkeypatch.setattr(torchs, "empty", empty)
    monkeypatch.setattr(torchs, "rendezvous", rendezvous)
    assert map_memory(64) is memory
    assert asked == [((64,), torch.uint8, torch.device("cuda", 3)), (7, group)]
    ((tensor, kept),) = symmetric_memory._KEPT
    assert (tensor, kept) == (7, memory)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"device": "cpu"}, "device is 'cpu'"),
        ({"num_nodes": 2}, "num_nodes is 2"),
        ({"dispatch": "padded"}, "dispatch is 'padded'"),
        ({"healing": "in_place"}, "healing is 'in_place'"),
    ],
)
def test_a_group_that_cannot_have_such_memory_is_refused_before_it_starts(change, named):
    possible = {"num_ranks": 2, "device": "cuda", "collectives": "symmetric_memory"}
    ParallelConfig(**possible)
    with pytest.raises(ValueError, match=named):
        ParallelConfig(**possible | change)
