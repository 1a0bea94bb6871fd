"""Cross entropy with its gradient: autograd's own goes over all logits six times, in fp32."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gptoss_ray.demo_training import fused


class CrossEntropy(torch.autograd.Function):
    """Summed over the rows that have a target."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor) -> Tensor:
        """Logits [N, vocab], targets [N], negative where there is none → [], fp32."""
        has_target = targets >= 0
        gradient, log_sums = fused.weighted_softmax(logits, has_target.float())
        rows = has_target.nonzero().squeeze(-1)
        of_rows = targets[rows]
        gradient[rows, of_rows] -= 1.0
        ctx.save_for_backward(gradient)
        return (log_sums[rows] - logits[rows, of_rows].float()).sum()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        """Gradient of the logits."""
        (gradient,) = ctx.saved_tensors
        return gradient.mul_(grad.item()), None
