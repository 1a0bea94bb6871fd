from __future__ import annotations

import torch
from torch import Tensor

from gptoss_ray.demo_training.expert_mlp import ExpertMlp


def _one_by_one(x: Tensor, ids: Tensor, weights: Tensor, *parameters: Tensor) -> Tensor:
    w1, b1, w2, b2 = parameters
    rows = []
    for row, experts, shares in zip(x, ids, weights, strict=True):
        out = torch.zeros_like(row)
        for expert, share in zip(experts, shares, strict=True):
            gate, up = (w1[expert] @ row + b1[expert]).chunk(2)
            gate, up = gate.clamp(max=7), up.clamp(-7, 7)
            out = out + share * (w2[expert] @ (gate * torch.sigmoid(1.702 * gate) * (up + 1)) + b2[expert])
        rows.append(out)
    return torch.stack(rows)


def test_output_and_all_gradients_equal_those_of_the_experts_one_by_one() -> None:
    torch.manual_seed(0)
    tokens, k, experts, hidden, inner = 40, 2, 5, 8, 6
    ids = torch.stack([torch.randperm(experts - 1)[:k] for _ in range(tokens)])  # the last one gets nothing
    shapes = [(tokens, hidden), (tokens, k), (experts, 2 * inner, hidden), (experts, 2 * inner)]
    shapes += [(experts, hidden, inner), (experts, hidden)]
    x, weights, *parameters = (torch.randn(shape, requires_grad=True) for shape in shapes)
    leaves = (x, weights, *parameters)
    expected = _one_by_one(3 * x, ids, weights, *parameters)
    direction = torch.randn_like(expected)
    expected_gradients = torch.autograd.grad(expected, leaves, direction)
    out = ExpertMlp.apply(3 * x, ids, weights, *parameters, 1.702, 7.0)
    torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-4)
    for gradient, wanted in zip(torch.autograd.grad(out, leaves, direction), expected_gradients, strict=True):
        torch.testing.assert_close(gradient, wanted, rtol=1e-4, atol=1e-4)
