"""TritonAttention: rotation, writing of keys and values, and paged attention with sinks."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gptoss_ray.kernels.kernels import AttentionRows, HeadShape


@dataclass(frozen=True)
class TritonAttentionPlan:
    """Of one step and one kind of layer: tensors on the device only."""

    rows: AttentionRows
    heads: HeadShape
    block_size: int


class TritonAttention:
    """What lies between the two matmuls of an attention layer."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def plan(self, rows: AttentionRows, heads: HeadShape, block_size: int) -> TritonAttentionPlan:
        """Work out once a step what the layers of one kind share; no host sync."""
        return TritonAttentionPlan(rows, heads, block_size)

    def attend(
        self, qkv: Tensor, plan: TritonAttentionPlan, keys: Tensor, values: Tensor, sinks: Tensor
    ) -> Tensor:
        """Rotate, write k and v, attend: qkv [T, (heads + 2 · kv_heads) · D] → [T, heads · D]."""
        raise NotImplementedError
