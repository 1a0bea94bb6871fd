from __future__ import annotations

import torch

from gptoss_ray.parallel.token_dispatcher import LocalTokenDispatcher


def test_rows_are_grouped_by_expert_in_token_order():
    x = torch.arange(3.0)[:, None]
    grouped, _ = LocalTokenDispatcher(4).dispatch(x, torch.tensor([[2, 0], [3, 2], [0, 2]]))
    assert grouped.num_rows_per_expert == [2, 0, 3, 1]
    assert grouped.rows.flatten().tolist() == [0, 2, 0, 1, 2, 1]


def test_combine_returns_every_experts_output_to_the_slot_that_chose_it():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(37, 5, generator=generator)
    expert_ids = torch.stack([torch.randperm(16, generator=generator)[:4] for _ in range(37)])
    dispatcher = LocalTokenDispatcher(16)
    grouped, handle = dispatcher.dispatch(x, expert_ids)
    experts = torch.arange(16.0).repeat_interleave(torch.tensor(grouped.num_rows_per_expert))
    home = dispatcher.combine(grouped.rows * experts[:, None], handle)
    assert torch.equal(home, x[:, None] * expert_ids[..., None])


def test_an_idle_step_dispatches_nothing():
    dispatcher = LocalTokenDispatcher(4)
    grouped, handle = dispatcher.dispatch(torch.empty(0, 5), torch.empty(0, 2, dtype=torch.int64))
    assert grouped.num_rows_per_expert == [0, 0, 0, 0]
    assert dispatcher.combine(grouped.rows, handle).shape == (0, 2, 5)
