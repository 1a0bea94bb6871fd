"""ReferenceKernels: the network's arithmetic in plain torch, from the functions of `reference.py`.

MXFP4 values are exact in bfloat16 and float32, so whether a matrix is kept packed and unpacked at every use,
or unpacked once, changes speed and memory but no bit of a result.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import cast

import torch
from torch import Tensor

from gptoss_ray.checkpoint.mxfp4 import dequantize
from gptoss_ray.kernels import reference
from gptoss_ray.kernels.attention_plan import AttentionPiece, plan_attention
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
    counts_on_host,
)
from gptoss_ray.kernels.paged_attention import max_blocks_at_once, paged_attention, write_slots
from gptoss_ray.kernels.reference import TILE_ROWS, linear, pad_rows, rms_norm, rotate, weighted_slot_sum


@dataclass(frozen=True)
class ReferenceMatrix:
    """Values, or MXFP4 that is unpacked at every use.

    Attributes:
        shape: (N, K).
        tensors: "weight" [N, K], or "blocks" [N, K/32, 16] and "scales" [N, K/32]; perhaps "bias" [N].
        dtype: Of the values.
    """

    shape: tuple[int, int]
    tensors: Mapping[str, Tensor]
    dtype: torch.dtype

    @property
    def weight(self) -> Tensor:
        """[N, K]."""
        values = self.tensors.get("weight")
        if values is None:
            values = dequantize(self.tensors["blocks"], self.tensors["scales"], self.dtype)
        return values

    @property
    def bias(self) -> Tensor | None:
        """[N], or none."""
        return self.tensors.get("bias")


@dataclass(frozen=True)
class ReferenceAttentionPlan:
    """Rotation and slots of the rows, whom they meet, and the shape of their heads."""

    rows: AttentionRows
    heads: HeadShape
    pieces: list[AttentionPiece]


@dataclass(frozen=True)
class ReferenceExpertTable:
    """The experts themselves."""

    experts: tuple[Expert, ...]


@dataclass(frozen=True)
class ReferenceLayerStack:
    """The layers themselves."""

    layers: tuple[LayerWeights, ...]


class ReferenceKernels:
    """See `Kernels`.

    Args:
        dtype: Of activations and weights: bfloat16 or float32.
        device: Where the weights live.
        unpacks_mxfp4: When they are packed for these kernels, rather than at every use.
    """

    name = "torch-reference"
    packing = None

    def __init__(
        self, dtype: torch.dtype, device: torch.device | str = "cpu", *, unpacks_mxfp4: bool = True
    ) -> None:
        self.unpacks_mxfp4 = unpacks_mxfp4
        self._dtype = dtype
        self._device = torch.device(device)

    def pack(
        self, weight: StoredMatrix, bias: Tensor | None = None, *, is_wide: bool = False
    ) -> dict[str, Tensor]:
        """Copy the weights; wide ones are kept in float32."""
        dtype = self._matrix_dtype(is_wide)
        if isinstance(weight, Tensor):
            tensors = {"weight": weight.to(self._device, dtype, copy=True)}
        elif self.unpacks_mxfp4:
            tensors = {"weight": dequantize(weight.blocks, weight.scales, dtype).to(self._device)}
        else:
            tensors = {
                "blocks": weight.blocks.to(self._device, copy=True),
                "scales": weight.scales.to(self._device, copy=True),
            }
        if bias is not None:
            tensors["bias"] = bias.to(self._device, dtype, copy=True)
        return tensors

    def matrix(
        self, tensors: Mapping[str, Tensor], shape: tuple[int, int], *, is_wide: bool = False
    ) -> ReferenceMatrix:
        """Wrap what `pack` returned."""
        return ReferenceMatrix(shape, tensors, self._matrix_dtype(is_wide))

    def norm_linear(self, x: Tensor, norm: Norm, matrix: Matrix) -> Tensor:
        """Norm, round to the activations' dtype, multiply."""
        normed = rms_norm(pad_rows(x), norm.weight, norm.eps)
        return _linear(normed, matrix)[: len(x)]

    def linear_add(self, x: Tensor, matrix: Matrix, residual: Tensor) -> Tensor:
        """Return residual [T, N] + x [T, K] @ W.T + bias: multiply, round, add."""
        return residual + _linear(pad_rows(x), matrix)[: len(x)]

    def plan_attention(
        self, rows: AttentionRows, heads: HeadShape, block_size: int
    ) -> ReferenceAttentionPlan:
        """Plan which rows meet which blocks (`attention_plan.py`)."""
        pieces = plan_attention(
            rows.positions,
            rows.sequence_index,
            rows.block_table,
            block_size=block_size,
            window=rows.window,
            max_blocks=max_blocks_at_once(block_size, heads.num_kv_heads, heads.num_heads, heads.head_dim),
        )
        return ReferenceAttentionPlan(rows, heads, pieces)

    def attention(
        self, qkv: Tensor, plan: AttentionPlan, keys: Tensor, values: Tensor, sinks: Tensor
    ) -> Tensor:
        """Attend with qkv [T, (heads + 2 · kv_heads) · D] → [T, heads · D].

        Queries stay in float32, keys and values are rounded to the dtype of the cache.
        """
        plan = cast(ReferenceAttentionPlan, plan)
        heads = plan.heads
        num_rotated = heads.num_heads + heads.num_kv_heads
        by_head = qkv.view(len(qkv), num_rotated + heads.num_kv_heads, heads.head_dim)
        cos, sin = plan.rows.cos.unsqueeze(1), plan.rows.sin.unsqueeze(1)
        rotated = rotate(by_head[:, :num_rotated], cos, sin)
        q, k = rotated[:, : heads.num_heads], rotated[:, heads.num_heads :].to(qkv.dtype)
        write_slots(keys, values, plan.rows.slot_mapping, k, by_head[:, num_rotated:])
        attended = qkv.new_empty(len(qkv), heads.num_heads * heads.head_dim)
        paged_attention(q, keys, values, plan.pieces, sinks, attended)
        return attended

    def attention_layer(
        self, hidden: Tensor, weights: AttentionWeights, plan: AttentionPlan, keys: Tensor, values: Tensor
    ) -> Tensor:
        """One part after the other."""
        qkv = self.norm_linear(hidden, weights.norm, weights.qkv)
        attended = self.attention(qkv, plan, keys, values, weights.sinks)
        return self.linear_add(attended, weights.out, hidden)

    def gate(self, x: Tensor, norm: Norm, gate: Gate) -> tuple[Tensor, Tensor, Tensor]:
        """The gate multiplies the rounded norm in float32."""
        normed = rms_norm(pad_rows(x), norm.weight, norm.eps)
        logits = linear(normed.float(), gate.weight, gate.bias)[: len(x)]
        chosen, expert_ids = logits.topk(gate.experts_per_token, dim=-1)
        return normed[: len(x)], chosen.softmax(dim=-1), expert_ids

    def expert_table(self, experts: Sequence[Expert]) -> ReferenceExpertTable:
        """Keep the experts as they are."""
        return ReferenceExpertTable(tuple(experts))

    def experts(
        self, rows: Tensor, num_rows_per_expert: Sequence[int] | Tensor, table: ExpertTable, swiglu: SwiGLU
    ) -> Tensor:
        """Each expert's rows are padded to whole tiles of their own; experts without rows cost nothing.

        Rows of no expert become NaN, so that whoever reads their results is found out.
        """
        experts, counts = cast(ReferenceExpertTable, table).experts, counts_on_host(num_rows_per_expert)
        num_padded = [-(-count // TILE_ROWS) * TILE_ROWS for count in counts]
        padded_rows = _padded_rows(counts, num_padded, rows.device)
        x = rows.new_zeros(sum(num_padded), rows.shape[1])
        x.index_copy_(0, padded_rows, rows[: len(padded_rows)])
        gate_up = _linear_by_expert(x, [expert.gate_up for expert in experts], num_padded)
        activated = reference.swiglu(gate_up, alpha=swiglu.alpha, limit=swiglu.limit)
        down = _linear_by_expert(activated, [expert.down for expert in experts], num_padded)
        results = down.index_select(0, padded_rows)
        if len(results) == len(rows):
            return results
        assert isinstance(num_rows_per_expert, Tensor), "counts that the host knows add up to the rows"
        return torch.cat((results, torch.full_like(rows[len(results) :], torch.nan)))

    def combine(self, hidden: Tensor, slots: Tensor, weights: Tensor) -> Tensor:
        """Add in float32."""
        return (hidden + weighted_slot_sum(slots, weights)).to(hidden.dtype)

    def layer_stack(self, layers: Sequence[LayerWeights]) -> ReferenceLayerStack:
        """Keep the layers as they are."""
        return ReferenceLayerStack(tuple(layers))

    def layers(self, hidden: Tensor, stack: LayerStack, plans: AttentionPlans, cache: LayerCaches) -> Tensor:
        """One part after the other."""
        for layer in cast(ReferenceLayerStack, stack).layers:
            plan = plans.sliding if layer.is_sliding else plans.full
            keys, values = cache.keys[layer.cache_index], cache.values[layer.cache_index]
            hidden = self.attention_layer(hidden, layer.attention, plan, keys, values)
            hidden = self._mixture(hidden, layer)
        return hidden

    def _mixture(self, hidden: Tensor, layer: LayerWeights) -> Tensor:
        """Rows are grouped by expert, those of an expert in token order."""
        normed, weights, expert_ids = self.gate(hidden, layer.norm, layer.gate)
        chosen = expert_ids.flatten()
        slots = chosen.argsort(stable=True)
        num_rows = chosen.bincount(minlength=len(layer.gate.weight)).tolist()
        rows = normed[slots // layer.gate.experts_per_token]
        grouped = self.experts(rows, num_rows, layer.table, layer.swiglu)
        results = torch.empty_like(grouped).index_copy_(0, slots, grouped)
        return self.combine(hidden, results.view(*expert_ids.shape, hidden.shape[1]), weights)

    def _matrix_dtype(self, is_wide: bool) -> torch.dtype:
        return torch.float32 if is_wide else self._dtype


def _linear(x: Tensor, matrix: Matrix, *, out: Tensor | None = None) -> Tensor:
    """Multiply whole tiles of rows, in the dtype of the matrix."""
    matrix = cast(ReferenceMatrix, matrix)
    return linear(x.to(matrix.dtype), matrix.weight, matrix.bias, out=out)


def _linear_by_expert(x: Tensor, matrices: Sequence[Matrix], num_rows: Sequence[int]) -> Tensor:
    """Apply each expert's matrix to its run of rows of x [R, K] → [R, N]."""
    out = x.new_empty(x.shape[0], cast(ReferenceMatrix, matrices[0]).shape[0])
    counts = list(num_rows)
    for matrix, rows, results in zip(
        matrices, x.split_with_sizes(counts), out.split_with_sizes(counts), strict=True
    ):
        if len(rows):
            _linear(rows, matrix, out=results)
    return out


def _padded_rows(num_rows: Sequence[int], num_padded: Sequence[int], device: torch.device) -> Tensor:
    """Return for every row its index once each expert's rows are padded from num_rows to num_padded."""
    paddings = [padded - count for padded, count in zip(num_padded, num_rows, strict=True)]
    shifts = torch.tensor(list(accumulate(paddings, initial=0))[:-1], device=device)
    rows = torch.arange(sum(num_rows), device=device)
    return rows + shifts.repeat_interleave(torch.tensor(list(num_rows), device=device))
