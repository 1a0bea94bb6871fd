"""What the planner repeats of other packages, which it may not import, is held to them here."""

from __future__ import annotations

import inspect

import pytest
import torch

from gptoss_ray.checkpoint.synthetic import tiny_config
from gptoss_ray.config import EngineConfig, ParallelConfig
from gptoss_ray.kernels import attention_plan, paged_attention, reference
from gptoss_ray.parallel.all_to_all import padded_bytes
from gptoss_ray.parallel.padded_buffers import PaddedBuffers
from gptoss_ray.parallel.shared_memory import SharedMemoryCollectives
from gptoss_ray.parallel.symmetric_memory import memory_bytes
from gptoss_ray.parallel.token_rows import TokenRowFormat
from gptoss_ray.planner import buffers
from tests.support.live_memory import owned_bytes

ENGINE = EngineConfig(max_num_batched_tokens=64)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("hidden_size", [96, 2880])
def test_a_planned_row_is_what_travels(dtype, hidden_size):
    model = tiny_config(hidden_size=hidden_size)
    travelling = TokenRowFormat(hidden_size, model.num_experts_per_token, dtype)
    assert buffers.row_bytes(model, dtype.itemsize) == travelling.width * dtype.itemsize


def test_planned_padded_buffers_are_those_of_the_exchange():
    model, parallel = tiny_config(), ParallelConfig(num_ranks=2, dispatch="padded", shared_memory=False)
    rows = TokenRowFormat(model.hidden_size, model.num_experts_per_token, torch.bfloat16)
    held = PaddedBuffers.of(
        rows, world_size=2, max_num_tokens=ENGINE.max_num_batched_tokens, device=torch.device("cpu")
    )
    positions = ENGINE.max_num_batched_tokens * model.num_experts_per_token * torch.int64.itemsize
    assert owned_bytes(held) == buffers.dispatch_bytes(model, ENGINE, parallel) + positions


@pytest.mark.parametrize("num_ranks", [2, 3, 8])
@pytest.mark.parametrize("max_padded_bytes", [0, 10_000, 50_000, 4 << 20])
def test_planned_padded_rows_are_those_of_the_largest_step_that_is_padded(num_ranks, max_padded_bytes):
    model = tiny_config()
    parallel = ParallelConfig(num_ranks=num_ranks, max_padded_bytes=max_padded_bytes)

    def fits(num_tokens: int) -> bool:
        return max_padded_bytes >= padded_bytes(
            num_ranks=num_ranks,
            max_num_tokens=num_tokens,
            experts_per_token=model.num_experts_per_token,
            hidden_size=model.hidden_size,
            dtype=torch.bfloat16,
        )

    largest = max(filter(fits, range(ENGINE.max_num_batched_tokens + 1)))
    assert buffers.padded_rows(model, ENGINE, parallel) == num_ranks * largest


def test_automatic_padding_keeps_buffers_for_the_steps_it_pads_beside_those_of_the_others():
    model = tiny_config()
    padded, auto = (
        ParallelConfig(num_ranks=2, dispatch=mode, shared_memory=False) for mode in ("padded", "auto")
    )
    little = auto.model_copy(update={"max_padded_bytes": 0})
    exact = auto.model_copy(update={"dispatch": "exact"})

    def planned(parallel: ParallelConfig) -> int:
        return buffers.dispatch_bytes(model, ENGINE, parallel)

    assert planned(little) == planned(exact)
    assert planned(auto) == planned(exact) + planned(padded)


@pytest.mark.parametrize("num_ranks", [2, 3, 8])
def test_planned_symmetric_memory_is_that_of_the_exchange(num_ranks):
    model = tiny_config()
    nccl = ParallelConfig(num_ranks=num_ranks, device="cuda", max_padded_bytes=100_001)
    symmetric = nccl.model_copy(update={"collectives": "symmetric_memory"})
    planned = buffers.dispatch_bytes(model, ENGINE, symmetric) - buffers.dispatch_bytes(model, ENGINE, nccl)
    assert 0 <= memory_bytes(100_001, num_ranks) - planned <= 2 * 16 * num_ranks


def test_the_ranks_of_a_node_have_a_mailbox_from_each_other():
    model, alone = tiny_config(), ParallelConfig(num_ranks=4, shared_memory=False)
    shared = alone.model_copy(update={"shared_memory": True})
    spread = shared.model_copy(update={"num_nodes": 2})
    base = buffers.dispatch_bytes(model, ENGINE, alone)
    mailbox = inspect.signature(SharedMemoryCollectives).parameters["mailbox_bytes"].default
    assert buffers.dispatch_bytes(model, ENGINE, shared) == base + 4 * mailbox
    assert buffers.dispatch_bytes(model, ENGINE, spread) == base + 2 * mailbox


def test_tiles_and_gathered_elements_are_those_of_the_kernels():
    assert buffers._TILE_ROWS == reference.TILE_ROWS
    assert buffers._MAX_GATHERED_ELEMENTS == paged_attention._MAX_GATHERED_ELEMENTS
    assert buffers._MAX_SCORE_ELEMENTS == paged_attention._MAX_SCORE_ELEMENTS
    assert buffers._SPAN_BLOCKS == attention_plan.SPAN_BLOCKS
