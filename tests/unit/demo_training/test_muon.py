from __future__ import annotations

import torch

from gptoss_ray.demo_training.muon import Muon, orthogonalised


def test_singular_values_come_near_one() -> None:
    matrices = torch.randn(3, 24, 16, generator=torch.Generator().manual_seed(0))
    values = torch.linalg.svdvals(orthogonalised(matrices).float())
    assert values.min() > 0.6
    assert values.max() < 1.3


def test_a_step_goes_down() -> None:
    weight = torch.zeros(8, 8, requires_grad=True)
    target = torch.randn(8, 8, generator=torch.Generator().manual_seed(0))
    muon = Muon([weight], weight_decay=0.0)
    losses = []
    for _ in range(20):
        loss = (weight - target).pow(2).sum()
        losses.append(loss.item())
        (weight.grad,) = torch.autograd.grad(loss, weight)
        muon.step(0.1)
    assert losses[-1] < 0.5 * losses[0]
