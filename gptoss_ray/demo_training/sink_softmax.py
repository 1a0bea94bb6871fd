"""Softmax with sinks, forward and backward: autograd's own would keep or repeat the exponentials in fp32."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gptoss_ray.demo_training import fused


class SinkSoftmax(torch.autograd.Function):
    """Probabilities of what is seen; with the sink's, which no value follows, they add up to 1."""

    @staticmethod
    def forward(ctx: Any, scores: Tensor, mask: Tensor, sinks: Tensor) -> Tensor:
        """Scores [B, heads, L, K], mask [B, 1, L, K] added to them, sinks [heads] → [B, heads, L, K]."""
        probabilities, sink = fused.sink_softmax(scores, mask, sinks)
        ctx.save_for_backward(probabilities, sink)
        return probabilities

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, Tensor]:
        """Gradients of scores and sinks."""
        probabilities, sink = ctx.saved_tensors
        grad_scores, mean = fused.sink_softmax_gradient(probabilities, grad)
        grad_sinks = -(sink * mean).sum((0, 2, 3))
        return grad_scores, None, grad_sinks.to(grad.dtype)
