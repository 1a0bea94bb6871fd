"""The elementwise parts of the network, each of which can be compiled into one pass over memory.

Uncompiled they take twice the time of all matrix products together; compiling them takes a minute and a C++
compiler, so only the training command does.
"""

from __future__ import annotations

import torch
from torch import Tensor


def swiglu(hidden: Tensor, alpha: float, limit: float) -> Tensor:
    """hidden [R, 2I] (gates, then ups) → [R, I], gpt-oss's clamped SwiGLU."""
    gate, up = hidden.float().chunk(2, dim=-1)
    gate, up = gate.clamp(max=limit), up.clamp(-limit, limit)
    return (gate * torch.sigmoid(alpha * gate) * (up + 1)).to(hidden.dtype)


def swiglu_gradient(hidden: Tensor, grad: Tensor, alpha: float, limit: float) -> Tensor:
    """Gradient of `swiglu` by `hidden`, given that by its result."""
    raw_gate, raw_up = hidden.float().chunk(2, dim=-1)
    gate, up = raw_gate.clamp(max=limit), raw_up.clamp(-limit, limit)
    sigmoid = torch.sigmoid(alpha * gate)
    by_gate = (up + 1) * sigmoid * (1 + alpha * gate * (1 - sigmoid)) * (raw_gate <= limit)
    by_up = gate * sigmoid * (raw_up.abs() <= limit)
    return torch.cat((by_gate * grad.float(), by_up * grad.float()), dim=-1).to(hidden.dtype)


def weighted_sum(slots: Tensor, weights: Tensor) -> Tensor:
    """slots [T, k, H], weights [T, k] → [T, H]."""
    return (slots.float() * weights[:, :, None]).sum(1).to(slots.dtype)


def weighted_sum_gradients(slots: Tensor, weights: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of `weighted_sum` by slots and weights."""
    grad = grad.float()[:, None]
    return (weights[:, :, None] * grad).to(slots.dtype), (slots.float() * grad).sum(-1)


def slot_sum(slots: Tensor) -> Tensor:
    """slots [T, k, H] → [T, H]."""
    return slots.float().sum(1).to(slots.dtype)


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Root mean square norm over the last dimension, in fp32."""
    wide = x.float()
    return (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps) * weight).to(x.dtype)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding of x [T, heads, dim] by tables [T, 1, dim / 2]."""
    first, second = x.float().chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1).to(x.dtype)


def attention_mask(query_positions: Tensor, key_positions: Tensor, window: int) -> Tensor:
    """Positions [B, L] and [B, K] → additive bf16 mask [B, 1, L, K]: the last `window` positions are seen."""
    distance = query_positions[:, None, :, None] - key_positions[:, None, None, :]
    return torch.where((distance >= 0) & (distance < window), 0.0, -1e9).to(torch.bfloat16)


def sink_softmax(scores: Tensor, mask: Tensor, sinks: Tensor) -> tuple[Tensor, Tensor]:
    """Softmax of scores [B, heads, L, K] with a mask [B, 1, L, K], and what the sinks [heads] take of it.

    The latter is fp32, [B, heads, L, 1].
    """
    wide, sink = scores.float() + mask, sinks.float().view(1, -1, 1, 1)
    largest = torch.maximum(wide.amax(-1, keepdim=True), sink)
    exponentials, of_sink = torch.exp(wide - largest), torch.exp(sink - largest)
    total = exponentials.sum(-1, keepdim=True) + of_sink
    return (exponentials / total).to(scores.dtype), of_sink / total


def sink_softmax_gradient(probabilities: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
    """Gradient of the scores, given that of the probabilities, and the latter's mean [B, heads, L, 1]."""
    wide, grad = probabilities.float(), grad.float()
    mean = (wide * grad).sum(-1, keepdim=True)
    return (wide * (grad - mean)).to(probabilities.dtype), mean


def weighted_softmax(logits: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Softmax of logits [N, vocab] times weights [N]; logarithm [N] of the sum of exponentials, fp32."""
    wide = logits.float()
    largest = wide.amax(-1, keepdim=True)
    exponentials = torch.exp(wide - largest)
    total = exponentials.sum(-1, keepdim=True)
    softmax = exponentials * (weights[:, None] / total)
    return softmax.to(logits.dtype), (total.log() + largest).squeeze(-1)


def round_to_e2m1(values: Tensor, scale: Tensor) -> Tensor:
    """The nearest of 0, 0.5, 1, 1.5, 2, 3, 4 and 6, times the scale and the sign."""
    scaled = values / scale
    magnitude = scaled.abs()
    step = torch.where(magnitude < 2, 0.5, torch.where(magnitude < 4, 1.0, 2.0))
    return (torch.round(scaled / step) * step).clamp(-6.0, 6.0) * scale


is_compiled = False


def compile_all() -> None:
    """Put compiled functions in the place of those above, for this process."""
    global is_compiled  # noqa: PLW0603
    is_compiled = True
    for function in (
        swiglu,
        swiglu_gradient,
        weighted_sum,
        weighted_sum_gradients,
        slot_sum,
        rms_norm,
        rotate,
        attention_mask,
        sink_softmax,
        sink_softmax_gradient,
        weighted_softmax,
        round_to_e2m1,
    ):
        globals()[function.__name__] = torch.compile(function, dynamic=True)
