"""Kernels: all arithmetic of the network on one device, in one implementation.

Law 1: each output row depends on its input row alone, to the bit; in attention also on the keys and values
its sequence holds at its position and before. How many rows come together, how many threads run, and which
other experts are here change nothing. T and R may be 0 everywhere.

Shapes: T rows, R rows of the local experts, H hidden size, N outputs, K inputs, E experts, I intermediate
size, k experts a token, D head dimension, S sequences. Activations have one dtype, the engine's; they are
rounded to it where a function says so, and float32 inside.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from torch import Tensor


@dataclass(frozen=True)
class Mxfp4:
    """A matrix as it lies in a checkpoint: blocks uint8 [N, K/32, 16], scales uint8 [N, K/32]."""

    blocks: Tensor
    scales: Tensor

    @property
    def shape(self) -> tuple[int, int]:
        """(N, K)."""
        return self.scales.shape[0], 32 * self.scales.shape[1]


StoredMatrix = Mxfp4 | Tensor
"""A matrix [N, K] as it was read, perhaps a view of a mapped file: to be packed, not kept."""


class Matrix(Protocol):
    """The weights [N, K] and the bias of a linear map in a format of the kernels' own."""

    @property
    def tensors(self) -> Mapping[str, Tensor]:
        """All memory that it holds, for `Kernels.matrix` to make it again."""


class ExpertTable(Protocol):
    """The experts of one layer on this rank, as `Kernels.experts` wants them; opaque."""


class LayerStack(Protocol):
    """All layers of a rank that has all experts, as `Kernels.layers` wants them; opaque."""


class AttentionPlan(Protocol):
    """What all layers of a kind (full or sliding) share in a step; opaque."""


class AttentionPlans(NamedTuple):
    """Of one step: for layers that see everything, and for those that see a window."""

    full: AttentionPlan
    sliding: AttentionPlan


class LayerCaches(NamedTuple):
    """Keys and values of all layers: [cache places, num_blocks, kv_heads, block_size, D]."""

    keys: Tensor
    values: Tensor


@dataclass(frozen=True)
class Norm:
    """RMS norm: weight float32 [H]."""

    weight: Tensor
    eps: float


@dataclass(frozen=True)
class AttentionWeights:
    """Of one layer: the norm before it, q, k and v one below the other, its output, and its sinks.

    Attributes:
        norm: [H].
        qkv: [(heads + 2 · kv_heads) · D, H].
        out: [H, heads · D].
        sinks: float32 [heads], an extra logit per head that takes weight and gives no value.
    """

    norm: Norm
    qkv: Matrix
    out: Matrix
    sinks: Tensor


@dataclass(frozen=True)
class Gate:
    """Chooses experts in float32, so that rounding does not: weight float32 [E, H], bias float32 [E]."""

    weight: Tensor
    bias: Tensor
    experts_per_token: int


@dataclass(frozen=True)
class Expert:
    """One expert: gate_up [2·I, H], all gates and then all ups, and down [H, I]."""

    gate_up: Matrix
    down: Matrix


@dataclass(frozen=True)
class SwiGLU:
    """Activation of experts: gate · sigmoid(alpha · gate) · (up + 1), clamped at `limit` before."""

    alpha: float
    limit: float


@dataclass(frozen=True)
class LayerWeights:
    """One layer whose experts are all here.

    Attributes:
        attention: And the norm before it.
        is_sliding: Whether it attends to a window.
        cache_index: Its place among the keys and values of the cache.
        norm: Before the gate.
        gate: Chooses experts.
        table: Expert e at place e.
        swiglu: Of the experts.
    """

    attention: AttentionWeights
    is_sliding: bool
    cache_index: int
    norm: Norm
    gate: Gate
    table: ExpertTable
    swiglu: SwiGLU


@dataclass(frozen=True)
class HeadShape:
    """Query heads, heads of keys and values, and D."""

    num_heads: int
    num_kv_heads: int
    head_dim: int


@dataclass(frozen=True)
class AttentionRows:
    """The rows of a step, and where the layers of one kind keep their keys and values.

    Attributes:
        positions: int64 [T].
        sequence_index: int64 [T], the row of block_table.
        slot_mapping: int64 [T], where k and v are written: block id · block size + offset.
        block_table: int32 [S, B], block ids by position // block size; -1 where no row looks.
        cos: float32 [T, D/2]; with sin, rotates the pairs (i, i + D/2) of a head.
        sin: float32 [T, D/2].
        window: A row sees its last `window` positions, itself included; None: all.
    """

    positions: Tensor
    sequence_index: Tensor
    slot_mapping: Tensor
    block_table: Tensor
    cos: Tensor
    sin: Tensor
    window: int | None


def counts_on_host(counts: Sequence[int] | Tensor) -> list[int]:
    """Return an `experts` call's rows of each expert as numbers, of kernels that run on the host."""
    numbers: list[int] = counts.tolist() if isinstance(counts, Tensor) else list(counts)
    return numbers


class Kernels(Protocol):
    """See the module. One thread at a time computes; another may pack weights meanwhile."""

    @property
    def name(self) -> str:
        """For logs, as "torch-reference" or "native-avx512"."""

    @property
    def packing(self) -> str | None:
        """What the bytes of `pack` depend on besides its arguments, for a store of packed weights.

        None: packing is so cheap that its result is not worth a place on disk.
        """

    def pack(
        self, weight: StoredMatrix, bias: Tensor | None = None, *, is_wide: bool = False
    ) -> dict[str, Tensor]:
        """Lay weights [N, K] and a bias [N] out for these kernels, in memory of their own.

        Args:
            weight: MXFP4 stays as it is or is unpacked; values go to the format for dense matrices.
            bias: Of any float dtype; None: none.
            is_wide: The results are wanted in float32 rather than rounded to the engine's dtype.
        """

    def matrix(
        self, tensors: Mapping[str, Tensor], shape: tuple[int, int], *, is_wide: bool = False
    ) -> Matrix:
        """Return the matrix of shape (N, K) that `pack` laid out, without copying (see `Matrix.tensors`)."""

    def norm_linear(self, x: Tensor, norm: Norm, matrix: Matrix) -> Tensor:
        """Return norm(x) @ W.T + bias: x [T, K] → [T, N]; the norm is rounded before."""

    def plan_attention(self, rows: AttentionRows, heads: HeadShape, block_size: int) -> AttentionPlan:
        """Work out once a step what the layers of one kind share."""

    def attention_layer(
        self, hidden: Tensor, weights: AttentionWeights, plan: AttentionPlan, keys: Tensor, values: Tensor
    ) -> Tensor:
        """Return hidden [T, H] + out(attention(qkv(norm(hidden)))); `hidden` may be written over.

        q and k are rotated, k and v written to their slots, then each row attends; scores are scaled by
        1 / sqrt(D). norm, qkv and attention are rounded.

        Args:
            hidden: Residual stream.
            weights: Of the layer.
            plan: Of this step and this kind of layer.
            keys: [num_blocks, kv_heads, block_size, D], written and read in an order of the kernels' own; so
                are values.
            values: Of the same shape.
        """

    def gate(self, x: Tensor, norm: Norm, gate: Gate) -> tuple[Tensor, Tensor, Tensor]:
        """Norm rows x [T, H] and choose the experts with the k largest logits, largest first.

        Returns:
            The normed rows [T, H], rounded; weights float32 [T, k], the softmax over the k chosen;
            expert ids int64 [T, k].
        """

    def expert_table(self, experts: Sequence[Expert]) -> ExpertTable:
        """Return what `experts` wants to know of these experts; it shares their memory."""

    def experts(
        self, rows: Tensor, num_rows_per_expert: Sequence[int] | Tensor, table: ExpertTable, swiglu: SwiGLU
    ) -> Tensor:
        """Return down(swiglu(gate_up(row))) of each row, rounded after each of the three.

        Args:
            rows: [R, H], the rows of the table's first expert, then of its second, ...
            num_rows_per_expert: As many as the table has experts; adds up to R. Or int32 [E] beside the rows,
                adding up to at most R: then what is returned behind the sum may be anything.
            table: Of the layer.
            swiglu: Of the model.
        """

    def combine(self, hidden: Tensor, slots: Tensor, weights: Tensor) -> Tensor:
        """Return hidden [T, H] + Σ_k weights[:, k] · slots[:, k], in slot order, rounded once.

        slots [T, k, H], weights float32 [T, k]. `hidden` may be written over.
        """

    def layer_stack(self, layers: Sequence[LayerWeights]) -> LayerStack:
        """Return what `layers` wants to know of these layers, in order; it shares their memory."""

    def layers(self, hidden: Tensor, stack: LayerStack, plans: AttentionPlans, cache: LayerCaches) -> Tensor:
        """Return what the stack's layers make of hidden [T, H], one after the other; it may be written over.

        Each is `attention_layer`, then what `gate`, `experts` and `combine` make of its result.

        Args:
            hidden: Residual stream.
            stack: Of the network.
            plans: Of this step.
            cache: Written and read as in `attention_layer`.
        """
