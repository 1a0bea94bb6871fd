"""TritonKernels: the network's arithmetic on a GPU."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

import torch
from torch import Tensor

from gptoss_ray.kernels.kernels import (
    AttentionPlan,
    AttentionPlans,
    AttentionRows,
    AttentionWeights,
    Expert,
    ExpertTable,
    Gate,
    HeadShape,
    LayerCaches,
    LayerStack,
    LayerWeights,
    Matrix,
    Norm,
    StoredMatrix,
    SwiGLU,
)
from gptoss_ray.kernels.triton.attention import TritonAttention, TritonAttentionPlan
from gptoss_ray.kernels.triton.norm import rms_norm


class TritonKernels:
    """See `Kernels`. Activations are bfloat16; all tensors lie on one device.

    Args:
        device: Where weights and activations live.
    """

    name = "triton"
    packing = None

    def __init__(self, device: torch.device | str = "cuda") -> None:
        self._device = torch.device(device)
        self._attention = TritonAttention(self._device)

    def pack(
        self, weight: StoredMatrix, bias: Tensor | None = None, *, is_wide: bool = False
    ) -> dict[str, Tensor]:
        """Lay out on the device."""
        raise NotImplementedError

    def matrix(
        self, tensors: Mapping[str, Tensor], shape: tuple[int, int], *, is_wide: bool = False
    ) -> Matrix:
        """Wrap what `pack` returned."""
        raise NotImplementedError

    def norm_linear(self, x: Tensor, norm: Norm, matrix: Matrix) -> Tensor:
        """Norm, round, multiply."""
        return self._linear(rms_norm(x, norm), matrix)

    def plan_attention(self, rows: AttentionRows, heads: HeadShape, block_size: int) -> AttentionPlan:
        """See `TritonAttention`."""
        return self._attention.plan(rows, heads, block_size)

    def attention_layer(
        self, hidden: Tensor, weights: AttentionWeights, plan: AttentionPlan, keys: Tensor, values: Tensor
    ) -> Tensor:
        """Written over `hidden`."""
        qkv = self.norm_linear(hidden, weights.norm, weights.qkv)
        plan = cast(TritonAttentionPlan, plan)
        attended = self._attention.attend(qkv, plan, keys, values, weights.sinks)
        return self._linear(attended, weights.out, residual=hidden)

    def gate(self, x: Tensor, norm: Norm, gate: Gate) -> tuple[Tensor, Tensor, Tensor]:
        """Norm, round, choose."""
        raise NotImplementedError

    def expert_table(self, experts: Sequence[Expert]) -> ExpertTable:
        """Addresses of the experts' matrices, on the device."""
        raise NotImplementedError

    def experts(
        self, rows: Tensor, num_rows_per_expert: Sequence[int], table: ExpertTable, swiglu: SwiGLU
    ) -> Tensor:
        """All experts in two launches."""
        raise NotImplementedError

    def combine(self, hidden: Tensor, slots: Tensor, weights: Tensor) -> Tensor:
        """Written over `hidden`."""
        raise NotImplementedError

    def layer_stack(self, layers: Sequence[LayerWeights]) -> LayerStack:
        """Keep the layers."""
        raise NotImplementedError

    def layers(self, hidden: Tensor, stack: LayerStack, plans: AttentionPlans, cache: LayerCaches) -> Tensor:
        """Written over `hidden`; reads nothing back to the host, so that a graph can capture it."""
        raise NotImplementedError

    def _linear(self, x: Tensor, matrix: Matrix, residual: Tensor | None = None) -> Tensor:
        raise NotImplementedError
