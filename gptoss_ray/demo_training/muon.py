"""Muon: momentum whose update of every matrix is made orthogonal.

Source: Jordan et al. 2024, kellerjordan.github.io/posts/muon. For matrices only; AdamW takes vectors, gates
and embeddings.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import torch
from torch import Tensor

from gptoss_ray.demo_training.precision import compute_dtype

_MOMENTUM = 0.95
_QUINTIC = (3.4445, -4.7750, 2.0315)
_NUM_ITERATIONS = 5


class Muon:
    """Moves matrices [..., rows, columns]; leading dimensions (experts) are matrices of their own."""

    def __init__(self, parameters: Iterable[Tensor], *, weight_decay: float) -> None:
        """Group the parameters by matrix shape, so that each group is made orthogonal in one batch."""
        self._groups: dict[tuple[int, ...], list[Tensor]] = defaultdict(list)
        self._momentum: dict[int, Tensor] = {}
        self._weight_decay = weight_decay
        for parameter in parameters:
            self._groups[tuple(parameter.shape[-2:])].append(parameter)
            self._momentum[id(parameter)] = torch.zeros_like(parameter)

    @torch.no_grad()
    def step(self, learning_rate: float) -> None:
        """Move every parameter against its `grad`."""
        for (rows, columns), parameters in self._groups.items():
            directions = [self._direction(parameter).reshape(-1, rows, columns) for parameter in parameters]
            updates = orthogonalised(torch.cat(directions)).float()
            scale = learning_rate * max(1.0, rows / columns) ** 0.5
            sizes = [len(direction) for direction in directions]
            for parameter, update in zip(parameters, torch.split(updates, sizes), strict=True):
                parameter.mul_(1 - learning_rate * self._weight_decay)
                parameter.sub_(update.reshape(parameter.shape), alpha=scale)

    def _direction(self, parameter: Tensor) -> Tensor:
        assert parameter.grad is not None
        momentum = self._momentum[id(parameter)]
        momentum.lerp_(parameter.grad, 1 - _MOMENTUM)
        return parameter.grad.lerp(momentum, _MOMENTUM)


def orthogonalised(matrices: Tensor) -> Tensor:
    """Bring the singular values of [B, rows, columns] near 1 by Newton-Schulz iterations."""
    a, b, c = _QUINTIC
    is_tall = matrices.shape[1] > matrices.shape[2]
    x = (matrices.mT if is_tall else matrices).to(compute_dtype())
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(_NUM_ITERATIONS):
        gram = x @ x.mT
        polynomial = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        x = torch.baddbmm(x, polynomial, x, beta=a)
    result: Tensor = x.mT if is_tall else x
    return result
