"""What a step of one GPU launches, reads and multiplies, kernel by kernel; and the least time that takes.

Pure arithmetic on shapes: a prediction, until `gptoss-ray bench gpu` measures it. A kernel takes at least the
longer of its bytes over the bandwidth and its operations over the matrix rate, and at least `KERNEL_S`. Tests
hold the launches against those that the kernels make.

Exact for a rank alone with MXFP4 experts.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from gptoss_ray.checkpoint.model_config import MXFP4_BITS, ModelConfig
from gptoss_ray.config import EngineConfig
from gptoss_ray.planner import kv
from gptoss_ray.planner.rates import attention_flops
from gptoss_ray.planner.weights import WeightFormat, padded_inputs

KERNEL_S = 2.5e-6
"""From one dependent kernel of a graph to the next, with nothing to do in it: an assumption."""
LAUNCH_S = 6e-6
"""What the host needs to launch a kernel that no graph holds, Triton's Python included: an assumption."""
IN_BFLOAT16 = WeightFormat.of_triton(EngineConfig())
"""What engines hold by default: matrices but the experts', and KV, in bfloat16."""

BLAS_ROWS = 65
"""Fewest rows that cuBLAS multiplies, where it does (`kernels/triton/blas.py`)."""

_BF16, _FLOAT32, _INT64 = 2, 4, 8


@dataclass(frozen=True, slots=True)
class KernelCost:
    """A kernel in a step, of all layers together.

    Attributes:
        name: Of the kernel, or of several small ones.
        num_launches: In a step.
        num_bytes: That have to be read and written: weights and keys once, activations in and out.
        num_flops: Of matrices.
    """

    name: str
    num_launches: int
    num_bytes: float = 0.0
    num_flops: float = 0.0


@dataclass(frozen=True)
class Ceilings:
    """What a card gives at most; of a data sheet, or as measured.

    Attributes:
        bytes_per_s: Of its memory.
        flops: Of dense bfloat16 products, per second.
    """

    bytes_per_s: float
    flops: float

    def least_s(self, cost: KernelCost) -> float:
        """Return the roofline of a kernel, its launches left out."""
        return max(cost.num_bytes / self.bytes_per_s, cost.num_flops / self.flops)


@dataclass(frozen=True)
class StepCost:
    """A step's kernels, in order of their first launch."""

    kernels: tuple[KernelCost, ...]

    @property
    def num_launches(self) -> int:
        """Of all kernels."""
        return sum(kernel.num_launches for kernel in self.kernels)

    @property
    def num_bytes(self) -> float:
        """Of all kernels."""
        return sum(kernel.num_bytes for kernel in self.kernels)

    @property
    def num_flops(self) -> float:
        """Of all kernels."""
        return sum(kernel.num_flops for kernel in self.kernels)

    def roofline_s(self, ceilings: Ceilings) -> float:
        """Return the bound of a step whose kernels overlap perfectly and cost nothing to launch."""
        return max(self.num_bytes / ceilings.bytes_per_s, self.num_flops / ceilings.flops)

    def least_s(self, ceilings: Ceilings, *, launch_s: float = KERNEL_S) -> float:
        """Return the least time of the kernels one after the other, each at least `launch_s` for a launch."""
        return sum(max(ceilings.least_s(kernel), kernel.num_launches * launch_s) for kernel in self.kernels)


def decode_step(
    model: ModelConfig,
    num_rows: int,
    context: int,
    held: WeightFormat = IN_BFLOAT16,
    *,
    num_experts: float | None = None,
    by_blas: bool = False,
) -> StepCost:
    """Return the cost of one token of each of `num_rows` streams with `context` tokens behind them.

    Args:
        model: The network, with MXFP4 experts.
        num_rows: Streams.
        context: Of each stream.
        held: How weights and KV are held.
        num_experts: Distinct experts a layer that the rows choose; None: as independent choices would.
        by_blas: Whether cuBLAS multiplies attention's matrices with many rows.
    """
    kv_bytes = num_rows * kv.read_bytes(model, context, held.kv_itemsize)
    flops = num_rows * attention_flops(model, context)
    touched = model.expected_experts(num_rows) if num_experts is None else num_experts
    return StepCost(tuple(_kernels(model, held, num_rows, num_rows, kv_bytes, flops, touched, by_blas)))


def prefill_step(
    model: ModelConfig,
    num_tokens: int,
    context: int = 0,
    held: WeightFormat = IN_BFLOAT16,
    *,
    by_blas: bool = False,
) -> StepCost:
    """Return the cost of `num_tokens` tokens of one prompt behind `context` others, and of one draw."""
    mean_context = context + num_tokens // 2
    kv_bytes = kv.read_bytes(model, context + num_tokens, held.kv_itemsize)
    flops = num_tokens * attention_flops(model, mean_context)
    touched = model.expected_experts(num_tokens)
    return StepCost(tuple(_kernels(model, held, num_tokens, 1, kv_bytes, flops, touched, by_blas)))


def _kernels(
    model: ModelConfig,
    held: WeightFormat,
    rows: int,
    draws: int,
    kv_bytes: float,
    attention: float,
    touched: float,
    by_blas: bool,
) -> Iterator[KernelCost]:
    """Yield what a step launches (`kernels/triton/`, `engine/device_executor.py`)."""
    layers, hidden, width = model.num_layers, model.hidden_size, model.intermediate_size
    query = model.num_attention_heads * model.head_dim
    kv_width = 2 * model.num_key_value_heads * model.head_dim
    slots = rows * model.num_experts_per_token
    is_product = by_blas and rows >= BLAS_ROWS

    yield KernelCost("tokens, positions, embedding", 8, rows * hidden * 2 * _BF16)
    yield KernelCost("attention lists", 4)
    yield KernelCost("first norm", 1, rows * hidden * 2 * _BF16)
    qkv = _matmul(
        "qkv, rotation, KV write", layers, rows, hidden, query + kv_width, held.dense_bits, is_product
    )
    narrowed = layers * rows * kv_width * (_BF16 - held.kv_itemsize)
    yield replace(qkv, num_bytes=qkv.num_bytes - narrowed)
    attended = layers * rows * 2 * query * _BF16
    yield KernelCost("attention", layers, kv_bytes + attended, attention)
    yield _matmul("attention output", layers, rows, query, hidden, held.dense_bits, is_product)
    gate = model.num_experts * hidden * _FLOAT32 + rows * hidden * 2 * _BF16
    yield KernelCost("norm, gate, choice", layers, layers * gate)
    if slots > model.num_experts // 2:  # kernels/triton/tiles.py: fewer find their experts in place
        yield KernelCost("rows by expert", layers + 1, layers * slots * 4 * _INT64)
    yield _experts("experts: gate, up, SwiGLU", layers, slots, touched, (hidden, 2 * width, width))
    yield _experts("experts: down", layers, slots, touched, (width, hidden, hidden))
    yield KernelCost("sum of experts, norm", layers, layers * (slots + 3 * rows) * hidden * _BF16)
    yield KernelCost("rows of logits", 1, draws * hidden * 2 * _BF16)
    yield KernelCost("last norm", 1, draws * hidden * 2 * _BF16)
    unembedding = _matmul("unembedding", 1, draws, hidden, model.vocab_size, held.unembedding_bits)
    logits_bytes = draws * model.vocab_size * _FLOAT32
    yield replace(unembedding, num_bytes=unembedding.num_bytes + logits_bytes / 2)
    yield KernelCost("logits for the host", 1, 2 * logits_bytes)
    yield KernelCost("draw", 7, 2 * logits_bytes)


def _matmul(
    name: str,
    layers: int,
    rows: int,
    num_inputs: int,
    num_outputs: int,
    weight_bits: float,
    is_product: bool = False,
) -> KernelCost:
    """Return the cost of a dense matmul in each of `layers` layers, its results in bfloat16.

    Of cuBLAS only the product is: a launch of ours reads it, and writes the results.
    """
    weight_bytes = padded_inputs(num_inputs) * num_outputs * weight_bits / 8
    num_moved = num_inputs + (3 if is_product else 1) * num_outputs
    num_bytes = weight_bytes + rows * num_moved * _BF16
    flops = 2.0 * layers * rows * num_inputs * num_outputs
    return KernelCost(name, (1 + is_product) * layers, layers * num_bytes, flops)


def _experts(name: str, layers: int, slots: int, touched: float, sizes: tuple[int, int, int]) -> KernelCost:
    """Return the cost of a matrix of `touched` experts; sizes are inputs, outputs, and what is stored."""
    num_inputs, num_outputs, num_stored = sizes
    values_bytes = padded_inputs(num_inputs) * num_outputs * MXFP4_BITS / 8
    weights = touched * (values_bytes + num_outputs * _FLOAT32)
    activations = slots * (num_inputs + num_stored) * _BF16
    flops = 2.0 * slots * num_inputs * num_outputs
    return KernelCost(name, layers, layers * (weights + activations), layers * flops)
