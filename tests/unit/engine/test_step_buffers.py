from __future__ import annotations

from dataclasses import fields

import pytest
import torch

from gptoss_ray.engine.device_executor import largest_shape
from gptoss_ray.engine.step_buffers import StepBuffers, StepShape
from gptoss_ray.engine.step_executor import StepLimits

SHAPES = [StepShape(7, 3, 5, 2), StepShape.of_decoding(4, 9), StepShape(0, 0, 0, 0), StepShape(1, 1, 1, 1)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_buffers_share_one_memory_and_do_not_overlap(shape):
    memory = torch.zeros(shape.num_bytes + 64, dtype=torch.uint8)
    buffers = StepBuffers.over(memory, shape)
    tensors = [getattr(buffers, field.name) for field in fields(buffers)]
    for value, tensor in enumerate(tensors, start=1):
        tensor.fill_(value)
    assert all((tensor == value).all() for value, tensor in enumerate(tensors, start=1))
    assert not memory[shape.num_bytes :].any()
    assert all(tensor.data_ptr() % 16 == memory.data_ptr() % 16 for tensor in tensors if tensor.numel())


def test_what_is_written_on_the_host_is_found_after_one_copy():
    shape = StepShape(7, 3, 5, 2)
    host, device = (torch.zeros(shape.num_bytes, dtype=torch.uint8) for _ in range(2))
    written, found = StepBuffers.over(host, shape), StepBuffers.over(device, shape)
    written.positions.copy_(torch.arange(7))
    written.uniform.copy_(torch.tensor([0.25, 1 / 3]))
    written.block_tables_window[2, 4] = 41
    device.copy_(host)
    assert found.positions.tolist() == list(range(7))
    assert torch.equal(found.uniform, written.uniform)
    assert found.block_tables_window[2, 4] == 41
    assert found.uniform.dtype == torch.float64


def test_no_step_takes_more_than_the_largest_shape():
    limits = StepLimits(max_num_sequences=8, max_num_tokens=64, max_context=100)
    largest = largest_shape(limits, block_size=16).num_bytes
    assert StepShape.of_decoding(8, 7).num_bytes <= largest
    assert StepShape(64, 8, 7, 8 + 64).num_bytes <= largest
