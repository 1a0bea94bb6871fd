"""TritonKernels: the network's arithmetic on a GPU.

A layer of a rank that has all experts takes seven launches: qkv with rotation and KV write, attention, out,
gate, gate_up, down, and the sum of the experts, which also norms for the next layer; with many rows an eighth
groups them by expert. Nothing is read back to the host, so that a graph can capture all of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, cast

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
from gptoss_ray.kernels.triton.combine import combine
from gptoss_ray.kernels.triton.expert_table import TritonExperts, triton_experts
from gptoss_ray.kernels.triton.experts import ExpertMatmuls, InPlace
from gptoss_ray.kernels.triton.gate import Chosen, choose_experts
from gptoss_ray.kernels.triton.last_arrival import ArrivalCounters
from gptoss_ray.kernels.triton.layer_stack import TritonLayerStack, triton_stack
from gptoss_ray.kernels.triton.linear import Linear
from gptoss_ray.kernels.triton.matrix import TritonMatrix, pack_int8, pack_mxfp4, pack_values, triton_matrix
from gptoss_ray.kernels.triton.norm import rms_norm
from gptoss_ray.kernels.triton.qkv import QkvProjection
from gptoss_ray.kernels.triton.routing import route
from gptoss_ray.kernels.triton.tile_table import TileTable
from gptoss_ray.kernels.triton.tiles import groups_rows, rows_per_tile


class TritonKernels:
    """See `Kernels`. Activations are bfloat16; all tensors lie on one device, all work on one stream.

    Args:
        device: Where weights and activations live; a CPU under Triton's interpreter.
        tiles: What was measured to be fast there; None: nothing.
        dense_weights: How values are packed; int8 has a scale for each 32 of a row, and is not for experts.
        dense_matmuls: What multiplies attention's matrices with many rows. cublas takes weights in bfloat16
            only, and a row's bits depend on its batch.
    """

    name = "triton"
    packing = None

    def __init__(
        self,
        device: torch.device | str = "cuda",
        tiles: TileTable | None = None,
        *,
        dense_weights: Literal["bfloat16", "int8"] = "bfloat16",
        dense_matmuls: Literal["batch_invariant", "cublas"] = "batch_invariant",
    ) -> None:
        by_blas = dense_matmuls == "cublas"
        self._device = torch.device(device)
        self._pack_dense = pack_int8 if dense_weights == "int8" else pack_values
        self._counters = ArrivalCounters(self._device)
        self._linear = Linear(self._counters, tiles, by_blas=by_blas)
        self._experts = ExpertMatmuls(self._counters, tiles)
        self._qkv = QkvProjection(self._counters, tiles, by_blas=by_blas)
        self._attention = TritonAttention(self._device)

    def pack(
        self, weight: StoredMatrix, bias: Tensor | None = None, *, is_wide: bool = False
    ) -> dict[str, Tensor]:
        """Lay out on the device; wide weights are packed as others, their results are not rounded."""
        if isinstance(weight, Tensor):
            tensors = self._pack_dense(weight, self._device)
        elif is_wide:
            raise ValueError("a matrix with wide results is MXFP4; it must be values")
        else:
            tensors = pack_mxfp4(weight, self._device)
        if bias is not None:
            tensors["bias"] = bias.to(self._device, torch.float32, copy=True)
        return tensors

    def matrix(
        self, tensors: Mapping[str, Tensor], shape: tuple[int, int], *, is_wide: bool = False
    ) -> TritonMatrix:
        """Wrap what `pack` returned."""
        return TritonMatrix(shape, tensors, is_wide)

    def norm_linear(self, x: Tensor, norm: Norm, matrix: Matrix) -> Tensor:
        """Norm, round, multiply: two launches."""
        return self._linear(rms_norm(x, norm), triton_matrix("matrix", matrix))

    def plan_attention(self, rows: AttentionRows, heads: HeadShape, block_size: int) -> AttentionPlan:
        """See `TritonAttention`."""
        return self._attention.plan(rows, heads, block_size)

    def attention_layer(
        self, hidden: Tensor, weights: AttentionWeights, plan: AttentionPlan, keys: Tensor, values: Tensor
    ) -> Tensor:
        """Written over `hidden`."""
        return self._attend(hidden, rms_norm(hidden, weights.norm), weights, plan, keys, values)

    def gate(self, x: Tensor, norm: Norm, gate: Gate) -> tuple[Tensor, Tensor, Tensor]:
        """Norm, round, choose in one launch; of equal logits the lowest expert comes first."""
        chosen = choose_experts(x, norm, gate, self._counters)
        return chosen.normed, chosen.weights, chosen.expert_ids

    def expert_table(self, experts: Sequence[Expert]) -> TritonExperts:
        """Note the experts' addresses on the device."""
        return TritonExperts.of(experts, self._device)

    def experts(
        self, rows: Tensor, num_rows_per_expert: Sequence[int] | Tensor, table: ExpertTable, swiglu: SwiGLU
    ) -> Tensor:
        """Three launches. Counts may lie on the device, int32 [E]; results behind their sum are undefined."""
        table = triton_experts(table)
        if not len(rows) or not len(table):
            return torch.empty_like(rows)
        counts = num_rows_per_expert
        if not isinstance(counts, Tensor):
            counts = _counts_on(self._device, counts, len(table), len(rows))
        elif counts.shape != (len(table),) or counts.dtype != torch.int32:
            raise ValueError(
                f"counts are {counts.dtype} {tuple(counts.shape)}; int32 ({len(table)},) is wanted"
            )
        routing = route(counts, len(rows), rows_per_tile(len(rows), len(table)))
        return self._experts(rows, len(rows), table, routing, swiglu)

    def combine(self, hidden: Tensor, slots: Tensor, weights: Tensor) -> Tensor:
        """Written over `hidden`."""
        combine(hidden, slots, weights)
        return hidden

    def layer_stack(self, layers: Sequence[LayerWeights]) -> TritonLayerStack:
        """Check the layers once for all steps."""
        return TritonLayerStack.of(layers)

    def layers(self, hidden: Tensor, stack: LayerStack, plans: AttentionPlans, cache: LayerCaches) -> Tensor:
        """Written over `hidden`; reads nothing back to the host."""
        if not len(hidden):
            return hidden
        stack = triton_stack(stack)
        counts = self._zero_counts(stack, len(hidden))
        normed: Tensor | None = rms_norm(hidden, stack.layers[0].attention.norm)
        for index, layer in enumerate(stack.layers):
            assert normed is not None
            plan = plans.sliding if layer.is_sliding else plans.full
            keys, values = cache.keys[layer.cache_index], cache.values[layer.cache_index]
            hidden = self._attend(hidden, normed, layer.attention, plan, keys, values)
            layer_counts = None if counts is None else counts[index, : len(layer.gate.weight)]
            chosen = choose_experts(hidden, layer.norm, layer.gate, self._counters, layer_counts)
            slots = self._chosen_experts(chosen, layer)
            normed = combine(hidden, slots, chosen.weights, stack.norm_behind(index))
        return hidden

    def _attend(
        self,
        hidden: Tensor,
        normed: Tensor,
        weights: AttentionWeights,
        plan: AttentionPlan,
        keys: Tensor,
        values: Tensor,
    ) -> Tensor:
        plan = cast(TritonAttentionPlan, plan)
        qkv = triton_matrix("qkv", weights.qkv)
        q = self._qkv(normed, qkv, plan.rows, plan.heads, keys, values)
        attended = self._attention.attend(q, plan, keys, values, weights.sinks)
        return self._linear(attended, triton_matrix("out", weights.out), residual=hidden)

    def _zero_counts(self, stack: TritonLayerStack, num_tokens: int) -> Tensor | None:
        """Return int32 [layers, E] for all layers of a step, where its rows are grouped."""
        gate = stack.layers[0].gate
        if not groups_rows(num_tokens * gate.experts_per_token, stack.num_experts):
            return None
        shape = (len(stack.layers), stack.num_experts)
        return torch.zeros(shape, dtype=torch.int32, device=self._device)

    def _chosen_experts(self, chosen: Chosen, layer: LayerWeights) -> Tensor:
        """Return the slots [T, k, H] of all rows, in place or grouped by expert."""
        table, num_rows = triton_experts(layer.table), chosen.expert_ids.numel()
        if chosen.counts is None:
            slots = self._experts(chosen.normed, num_rows, table, InPlace(chosen.expert_ids), layer.swiglu)
        else:
            size = rows_per_tile(num_rows, len(table))
            routing = route(chosen.counts, num_rows, size, chosen.expert_ids, chosen.ranks)
            slots = self._experts(chosen.normed, num_rows, table, routing, layer.swiglu)
        return slots.view(*chosen.expert_ids.shape, -1)


def _counts_on(device: torch.device, counts: Sequence[int], num_experts: int, num_rows: int) -> Tensor:
    if len(counts) != num_experts or sum(counts) != num_rows or min(counts) < 0:
        raise ValueError(
            f"num_rows_per_expert is {list(counts)}; it must be {num_experts} counts from 0 that add up to "
            f"the {num_rows} rows"
        )
    return torch.tensor(list(counts), dtype=torch.int32).to(device, non_blocking=True)
