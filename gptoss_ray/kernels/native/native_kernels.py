"""NativeKernels: the network's arithmetic in C++, on threads of its own.

Activations are bfloat16 on the CPU. Checks cost a few microseconds a call; what can be checked once (weights,
experts of a layer, rows of a step) is. All functions keep law 1; `src/api.h` says what each computes.
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from typing import Literal

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
    counts_on_host,
)
from gptoss_ray.kernels.native.arguments import activations, address, contiguous, sizes
from gptoss_ray.kernels.native.attention_arguments import NativeAttentionPlan, native_plan
from gptoss_ray.kernels.native.context import NativeContext, usable_cpus
from gptoss_ray.kernels.native.layer_stack import NativeLayerStack, native_stack
from gptoss_ray.kernels.native.library import Activations, NativeLibrary
from gptoss_ray.kernels.native.packed import LAYOUT_VERSION, Format, PackedMatrix, packed
from gptoss_ray.kernels.native.packed_experts import PackedExperts, native_table
from gptoss_ray.kernels.native.packing import Packer

_BF16, _F32, _I64 = torch.bfloat16, torch.float32, torch.int64
_DENSE_FORMATS = {"bfloat16": Format.BF16, "int8": Format.INT8}
_ACTIVATIONS = {"bfloat16": Activations.BF16, "int8": Activations.INT8}


class NativeKernels:
    """See `Kernels`. torch's own threads should be set to 1: they would compete with these for the cores.

    Args:
        library: What is built here.
        num_threads: That compute, the caller's included.
        dense_weights: How weights that are no MXFP4 are packed; int8 has a scale for each 32 of a row.
        activations: What matrices multiply; int8, with int8 weights only, has a scale for each 32 of a row.
        pin_threads: Keep each thread but the caller's on a CPU of its own, of those this process may use.
        instruction_set: One of the library's; None: the fastest.

    Attributes:
        context: Instruction set and threads.

    Raises:
        ValueError: The library or this machine does not offer what is asked.
    """

    def __init__(
        self,
        library: NativeLibrary,
        *,
        num_threads: int,
        dense_weights: Literal["bfloat16", "int8"] = "bfloat16",
        activations: Literal["bfloat16", "int8"] = "bfloat16",
        pin_threads: bool = False,
        instruction_set: str | None = None,
    ) -> None:
        if dense_weights not in _DENSE_FORMATS:
            raise ValueError(f"dense_weights is {dense_weights!r}; it must be 'bfloat16' or 'int8'")
        if activations not in _ACTIVATIONS:
            raise ValueError(f"activations is {activations!r}; it must be 'bfloat16' or 'int8'")
        if activations == "int8" and dense_weights != "int8":
            raise ValueError(
                f"activations is 'int8' and dense_weights is {dense_weights!r}; it must be 'int8' too"
            )
        cpus = usable_cpus(num_threads) if pin_threads else None
        self.context = NativeContext(library, num_threads, instruction_set=instruction_set, cpus=cpus)
        self.name = f"native-{self.context.instruction_set}"
        self.packing = f"native-{LAYOUT_VERSION}-{dense_weights}"
        self._activations = _ACTIVATIONS[activations]
        self._packer = Packer(library, num_threads, _DENSE_FORMATS[dense_weights])

    def close(self) -> None:
        """End the threads, which the garbage collector does otherwise; every later call is a ValueError."""
        self.context.close()
        self._packer.close()

    def pack(
        self, weight: StoredMatrix, bias: Tensor | None = None, *, is_wide: bool = False
    ) -> dict[str, Tensor]:
        """MXFP4 stays MXFP4; values become bfloat16 or int8, for wide results too. Any thread may call it."""
        del is_wide  # what is kept is the same
        return self._packer.pack(weight, bias)

    def matrix(
        self, tensors: Mapping[str, Tensor], shape: tuple[int, int], *, is_wide: bool = False
    ) -> PackedMatrix:
        """ValueError where a tensor is not what `pack` makes of this shape, or is not on 64 bytes."""
        return PackedMatrix(dict(tensors), shape, is_wide, self._activations)

    def linear(self, x: Tensor, matrix: Matrix) -> Tensor:
        """Return x [T, K] @ W.T + bias → [T, N], rounded once, or float32 where the matrix is wide."""
        weights = packed("matrix", matrix)
        n, k = weights.shape
        x = activations("x", x, k)
        num_rows = x.shape[0]
        out = torch.empty((num_rows, n), dtype=_F32 if weights.is_wide else _BF16)
        context = self.context
        if num_rows and context.functions.gr_linear(
            context.handle, weights.address, x.data_ptr(), num_rows, out.data_ptr(), weights.is_wide
        ):
            context.fail()
        return out

    def norm_linear(self, x: Tensor, norm: Norm, matrix: Matrix) -> Tensor:
        """Norm, round, multiply in one call."""
        weights = packed("matrix", matrix)
        n, k = weights.shape
        x = activations("x", x, k)
        norm_weight = address("norm.weight", norm.weight, _F32, (k,))
        num_rows = x.shape[0]
        out = torch.empty((num_rows, n), dtype=_F32 if weights.is_wide else _BF16)
        context = self.context
        if num_rows and context.functions.gr_norm_linear(
            context.handle,
            weights.address,
            x.data_ptr(),
            norm_weight,
            norm.eps,
            num_rows,
            out.data_ptr(),
            weights.is_wide,
        ):
            context.fail()
        return out

    def linear_add(self, x: Tensor, matrix: Matrix, residual: Tensor) -> Tensor:
        """Return residual [T, N] + x [T, K] @ W.T + bias, rounded once, written over `residual`."""
        weights = packed("matrix", matrix)
        n, k = weights.shape
        x = activations("x", x, k)
        num_rows = x.shape[0]
        out = contiguous("residual", residual, _BF16, (num_rows, n))
        place = out.data_ptr()
        context = self.context
        if num_rows and context.functions.gr_linear_add(
            context.handle, weights.address, x.data_ptr(), place, num_rows, place
        ):
            context.fail()
        return out

    def plan_attention(self, rows: AttentionRows, heads: HeadShape, block_size: int) -> NativeAttentionPlan:
        """Check the rows once for all layers."""
        return NativeAttentionPlan.of(rows, heads, block_size)

    def attention(
        self, qkv: Tensor, plan: AttentionPlan, keys: Tensor, values: Tensor, sinks: Tensor
    ) -> Tensor:
        """Rotate, write k and v, attend: qkv [T, (heads + 2 · kv_heads) · D] → [T, heads · D].

        Rotated queries, and keys and values, are rounded to bfloat16; weights stay in float32.
        """
        plan = native_plan(plan)
        heads = plan.heads
        num_rows, head_dim = plan.num_tokens, heads.head_dim
        width = (heads.num_heads + 2 * heads.num_kv_heads) * head_dim
        qkv = contiguous("qkv", qkv, _BF16, (num_rows, width))
        out = torch.empty((num_rows, heads.num_heads * head_dim), dtype=_BF16)
        plan.point_at(keys, values, sinks)
        plan.arguments.qkv, plan.arguments.out = qkv.data_ptr(), out.data_ptr()
        context = self.context
        if num_rows and context.functions.gr_attention(context.handle, plan.address):
            context.fail()
        return out

    def attention_layer(
        self, hidden: Tensor, weights: AttentionWeights, plan: AttentionPlan, keys: Tensor, values: Tensor
    ) -> Tensor:
        """All in one call, written over `hidden`."""
        plan = native_plan(plan)
        qkv, out = packed("qkv", weights.qkv), packed("out", weights.out)
        hidden_size = qkv.shape[1]
        hidden = contiguous("hidden", hidden, _BF16, (plan.num_tokens, hidden_size))
        plan.point_at(keys, values, weights.sinks)
        context = self.context
        if plan.num_tokens and context.functions.gr_attention_layer(
            context.handle,
            qkv.address,
            out.address,
            address("norm.weight", weights.norm.weight, _F32, (hidden_size,)),
            weights.norm.eps,
            plan.address,
            hidden.data_ptr(),
        ):
            context.fail()
        return hidden

    def gate(self, x: Tensor, norm: Norm, gate: Gate) -> tuple[Tensor, Tensor, Tensor]:
        """Norm, round, choose in one call; of equal logits the lowest expert comes first."""
        num_experts, hidden_size = sizes("gate.weight", gate.weight, 2)
        num_chosen = gate.experts_per_token
        x = activations("x", x, hidden_size)
        norm_weight = address("norm.weight", norm.weight, _F32, (hidden_size,))
        weight = address("gate.weight", gate.weight, _F32, (num_experts, hidden_size))
        bias = address("gate.bias", gate.bias, _F32, (num_experts,))
        if not 0 < num_chosen <= num_experts:
            raise ValueError(f"experts_per_token is {num_chosen}; it must lie in 1 to {num_experts}")
        num_rows = x.shape[0]
        normed = torch.empty((num_rows, hidden_size), dtype=_BF16)
        weights = torch.empty((num_rows, num_chosen), dtype=_F32)
        expert_ids = torch.empty((num_rows, num_chosen), dtype=_I64)
        context = self.context
        if num_rows and context.functions.gr_gate(
            context.handle,
            x.data_ptr(),
            norm_weight,
            norm.eps,
            weight,
            bias,
            num_rows,
            hidden_size,
            num_experts,
            num_chosen,
            normed.data_ptr(),
            weights.data_ptr(),
            expert_ids.data_ptr(),
        ):
            context.fail()
        return normed, weights, expert_ids

    def expert_table(self, experts: Sequence[Expert]) -> PackedExperts:
        """Lay the experts' structures side by side; ValueError if their shapes differ."""
        return PackedExperts.of(experts)

    def experts(
        self, rows: Tensor, num_rows_per_expert: Sequence[int] | Tensor, table: ExpertTable, swiglu: SwiGLU
    ) -> Tensor:
        """All experts in one call, so that few rows of many experts keep all threads busy."""
        table = native_table(table)
        # A rank without experts of this layer gets no rows, but of the right width.
        width = table.hidden_size if table.experts else rows.shape[-1]
        rows = activations("rows", rows, width)
        counts = array("q", counts_on_host(num_rows_per_expert))
        num_rows = rows.shape[0]
        fits = sum(counts) == num_rows or (isinstance(num_rows_per_expert, Tensor) and sum(counts) < num_rows)
        if len(counts) != len(table.experts) or not fits or (num_rows and min(counts) < 0):
            raise ValueError(
                f"num_rows_per_expert is {list(counts)}; it must be {len(table.experts)} "
                f"counts from 0 that add up to the {num_rows} rows"
            )
        out = torch.empty((num_rows, width), dtype=_BF16)
        context = self.context
        if num_rows and context.functions.gr_experts(
            context.handle,
            table.gate_up,
            table.down,
            len(counts),
            counts.buffer_info()[0],
            rows.data_ptr(),
            swiglu.alpha,
            swiglu.limit,
            out.data_ptr(),
        ):
            context.fail()
        return out

    def combine(self, hidden: Tensor, slots: Tensor, weights: Tensor) -> Tensor:
        """Written over `hidden`."""
        num_rows, num_slots, hidden_size = sizes("slots", slots, 3)
        out = contiguous("hidden", hidden, _BF16, (num_rows, hidden_size))
        slots = contiguous("slots", slots, _BF16, (num_rows, num_slots, hidden_size))
        weights = contiguous("weights", weights, _F32, (num_rows, num_slots))
        place = out.data_ptr()
        context = self.context
        if num_rows and context.functions.gr_combine(
            context.handle,
            place,
            slots.data_ptr(),
            weights.data_ptr(),
            num_rows,
            num_slots,
            hidden_size,
            place,
        ):
            context.fail()
        return out

    def layer_stack(self, layers: Sequence[LayerWeights]) -> NativeLayerStack:
        """Check the layers once for all steps."""
        return NativeLayerStack.of(layers)

    def layers(self, hidden: Tensor, stack: LayerStack, plans: AttentionPlans, cache: LayerCaches) -> Tensor:
        """All in one call, written over `hidden`; of equal logits the lowest expert comes first."""
        stack, full, sliding = native_stack(stack), native_plan(plans.full), native_plan(plans.sliding)
        num_rows = full.num_tokens
        hidden = contiguous("hidden", hidden, _BF16, (num_rows, stack.hidden_size))
        num_places = full.point_at_all(cache, stack.num_heads)
        sliding.point_at_all(cache, stack.num_heads)
        context = self.context
        if num_rows and context.functions.gr_layers(
            context.handle,
            stack.address,
            len(stack.layers),
            num_places,
            full.address,
            sliding.address,
            hidden.data_ptr(),
        ):
            context.fail()
        return hidden
