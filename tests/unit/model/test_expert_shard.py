from __future__ import annotations

import pytest
import torch

from gptoss_ray.checkpoint.mxfp4 import dequantize
from gptoss_ray.kernels.backend import make_kernels, select_backend
from gptoss_ray.kernels.reference_kernels import ReferenceKernels
from gptoss_ray.model.expert_shard import ExpertShard
from gptoss_ray.model.packed_store import InMemoryStore
from gptoss_ray.model.weight_loader import WeightLoader
from gptoss_ray.parallel.token_dispatcher import GroupedRows
from tests.support.backends import EACH_BACKEND

KERNELS = ReferenceKernels(torch.float32)


def make_loader(reader, kernels=KERNELS):
    return WeightLoader(reader, kernels, InMemoryStore(), torch.device("cpu"))


def load(reader, expert_ids, kernels=KERNELS):
    return ExpertShard.load(make_loader(reader, kernels), 1, expert_ids)


def rows(*counts, dtype=torch.float32):
    generator = torch.Generator().manual_seed(sum(counts))
    return GroupedRows(torch.randn(sum(counts), 64, generator=generator).to(dtype), list(counts))


def test_gate_and_up_are_the_even_and_odd_rows_of_the_published_matrix(open_checkpoint):
    reader = open_checkpoint()
    names = [f"layers.1.experts.{name}" for name in ("gate_up.blocks", "gate_up.scales", "gate_up.bias")]
    blocks, scales, bias = (reader.read(name)[3] for name in names)
    grouped = rows(5)
    gate_up = grouped.rows @ dequantize(blocks, scales, torch.float32).T + bias.float()
    gate, up = gate_up[:, 0::2].clamp(max=7.0), gate_up[:, 1::2].clamp(-7.0, 7.0)
    activated = gate * torch.sigmoid(1.702 * gate) * (up + 1)
    names = [f"layers.1.experts.{name}" for name in ("down.blocks", "down.scales", "down.bias")]
    blocks, scales, bias = (reader.read(name)[3] for name in names)
    expected = activated @ dequantize(blocks, scales, torch.float32).T + bias.float()
    torch.testing.assert_close(load(reader, [3]).forward(grouped, KERNELS), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_packed_and_materialised_experts_give_the_same_bits(open_checkpoint, dtype):
    reader = open_checkpoint()
    grouped = rows(1, 0, 40, 16, 3, 0, 0, 17, dtype=dtype)
    packing, unpacking = (ReferenceKernels(dtype, unpacks_mxfp4=unpacks) for unpacks in (False, True))
    packed = load(reader, range(8), packing).forward(grouped, packing)
    unpacked = load(reader, range(8), unpacking).forward(grouped, unpacking)
    assert packed.dtype == dtype
    assert torch.equal(packed, unpacked)


def test_a_row_of_an_expert_has_the_same_bits_whatever_other_rows_and_experts_have(open_checkpoint):
    kernels = ReferenceKernels(torch.bfloat16)
    shard = load(open_checkpoint(), range(8), kernels)
    grouped = rows(3, 40, 0, 16, 1, 2, 5, 20, dtype=torch.bfloat16)
    together = shard.forward(grouped, kernels)
    start = 0
    for expert, count in enumerate(grouped.num_rows_per_expert):
        for row in range(start, start + count):
            counts = [int(expert == other) for other in range(8)]
            alone = shard.forward(GroupedRows(grouped.rows[row : row + 1], counts), kernels)
            assert torch.equal(alone[0], together[row])
        start += count


@pytest.mark.parametrize("expert_ids", [[0], [2, 3, 4], [7, 1, 2]])
def test_a_shard_reads_only_the_bytes_of_its_experts_and_computes_the_same(open_checkpoint, expert_ids):
    reader = open_checkpoint()
    whole = load(reader, range(8))
    bytes_of_all = reader.num_bytes_read
    shard = load(reader, expert_ids)
    assert reader.num_bytes_read - bytes_of_all == bytes_of_all * len(expert_ids) // 8
    for local, expert in enumerate(expert_ids):
        x = rows(4).rows
        counts = [4 * (i == local) for i in range(len(expert_ids))]
        counts_in_whole = [4 * (i == expert) for i in range(8)]
        alone = shard.forward(GroupedRows(x, counts), KERNELS)
        assert torch.equal(alone, whole.forward(GroupedRows(x, counts_in_whole), KERNELS))


def test_other_experts_are_read_only_where_they_are_new_and_give_the_same_bits(open_checkpoint):
    reader = open_checkpoint()
    held = load(reader, [2, 3, 4])
    bytes_of_three = reader.num_bytes_read
    for expert_ids, num_new in (([2, 4, 7], 1), ([0, 4, 1, 2], 2), ([4, 3], 0)):
        bytes_before = reader.num_bytes_read
        other = held.with_experts(make_loader(reader), 1, [2, 3, 4], expert_ids)
        assert reader.num_bytes_read - bytes_before == bytes_of_three // 3 * num_new
        shared = set(map(id, held.experts)) & set(map(id, other.experts))
        assert len(shared) == len(expert_ids) - num_new
        grouped = rows(*range(1, len(expert_ids) + 1))
        assert torch.equal(
            other.forward(grouped, KERNELS), load(reader, expert_ids).forward(grouped, KERNELS)
        )


def test_an_idle_step_costs_nothing_and_fits(open_checkpoint):
    idle = GroupedRows(torch.empty(0, 64), [0] * 8)
    assert load(open_checkpoint(), range(8)).forward(idle, KERNELS).shape == (0, 64)


@pytest.mark.parametrize("engine", EACH_BACKEND)
def test_rows_behind_those_that_are_counted_on_the_device_touch_no_result(open_checkpoint, engine):
    reader = open_checkpoint()
    kernels = make_kernels(select_backend(engine, reader.config), engine, unpacks_mxfp4=True)
    shard = load(reader, range(8), kernels)
    counted = rows(3, 0, 17, 0, 1, 2, 0, 4, dtype=getattr(torch, engine.dtype))
    counts = torch.tensor(counted.num_rows_per_expert, dtype=torch.int32)
    more = torch.cat((counted.rows, torch.full_like(counted.rows[:5], torch.nan)))
    results = shard.forward(GroupedRows(more, counts), kernels)
    assert results.shape == more.shape
    assert torch.equal(results[:27], shard.forward(counted, kernels))
