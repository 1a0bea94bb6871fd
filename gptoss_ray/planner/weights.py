"""What the weights of a rank weigh in memory, and what a decoded token reads of them."""

from __future__ import annotations

import math
from dataclasses import dataclass

from gptoss_ray.checkpoint.layout import canonical_shapes
from gptoss_ray.checkpoint.model_config import MXFP4_BITS, MXFP4_BLOCK, ModelConfig
from gptoss_ray.config import DENSE_BITS, EXPERT_MEMORY_SHARE, EngineConfig

_WIDE = ("norm.weight", "gate.weight", "gate.bias", "sinks")
_FLOAT32 = 4
# Native kernels fill matrices up to whole tiles of so many rows (kernels/native/src/api.h).
_NATIVE_TILE_ROWS = 16
# Kernels for GPUs fill matrices up to whole tiles of so many outputs (of MXFP4) and inputs
# (kernels/triton/matrix.py).
_TRITON_TILE_N, _TRITON_TILE_K = 64, 128
_MATRICES = ("q.weight", "k.weight", "v.weight", "attention.out.weight", "unembedding.weight", ".blocks")


@dataclass(frozen=True)
class WeightFormat:
    """How weights and the KV cache are held. Matrices are given in bits a value, block scales included.

    Attributes:
        itemsize: Bytes a value of embedding and activations.
        kv_itemsize: Bytes a value of the KV cache.
        dense_bits: Attention's projections, and experts that are not quantized.
        unembedding_bits: The unembedding.
        expert_bits: MXFP4 experts.
        bias_itemsize: Bytes a value of the biases of projections and experts.
        wide_itemsize: Bytes a value of gates, norms and sinks.
        is_native: Of the native kernels, whose buffers are others than torch's, and which fill up tiles.
        is_triton: Of the kernels for GPUs.
    """

    itemsize: int
    kv_itemsize: int
    dense_bits: float
    unembedding_bits: float
    expert_bits: float
    bias_itemsize: int
    wide_itemsize: int = _FLOAT32
    is_native: bool = False
    is_triton: bool = False

    @classmethod
    def of_torch(cls, engine: EngineConfig, *, experts_packed: bool) -> WeightFormat:
        """Return the format of the reference kernels, whose logits are products in float32."""
        itemsize = 2 if engine.dtype == "bfloat16" else _FLOAT32
        bits = 8 * itemsize
        expert_bits = MXFP4_BITS if experts_packed else bits
        return cls(itemsize, engine.kv_itemsize, bits, 8 * _FLOAT32, expert_bits, itemsize)

    @classmethod
    def of_native(cls, engine: EngineConfig) -> WeightFormat:
        """Return the format of the native kernels; MXFP4 experts stay packed."""
        bits = DENSE_BITS[engine.dense_weights]
        return cls(2, engine.kv_itemsize, bits, bits, MXFP4_BITS, _FLOAT32, is_native=True)

    @classmethod
    def of_triton(cls, engine: EngineConfig) -> WeightFormat:
        """Return the format of the kernels for GPUs; logits are float32 sums of bfloat16 products."""
        bits = DENSE_BITS[engine.dense_weights]
        return cls(2, engine.kv_itemsize, bits, bits, MXFP4_BITS, _FLOAT32, is_triton=True)

    @property
    def experts_packed(self) -> bool:
        """Whether MXFP4 experts stay in MXFP4."""
        return self.expert_bits == MXFP4_BITS


# What lies on disk: bfloat16 throughout, experts in MXFP4.
AS_PUBLISHED = WeightFormat(2, 2, 16, 16, MXFP4_BITS, 2, wide_itemsize=2)


@dataclass(frozen=True)
class WeightSizes:
    """Bytes of a model's parts.

    Attributes:
        lookup_bytes: Embedding and rotary tables, of which a token reads a row.
        dense_bytes: Attention, gates, norms and unembedding, read whole by every step.
        expert_bytes: One expert of one layer.
        num_layers: Layers, each with its own experts.
    """

    lookup_bytes: int
    dense_bytes: int
    expert_bytes: int
    num_layers: int

    def held_bytes(self, num_experts: int) -> int:
        """Return what a rank with `num_experts` experts a layer holds."""
        return self.lookup_bytes + self.dense_bytes + self.num_layers * num_experts * self.expert_bytes

    def read_bytes(self, num_experts: float) -> float:
        """Return what a step reads that meets `num_experts` experts a layer."""
        return self.dense_bytes + self.num_layers * num_experts * self.expert_bytes


def weigh(model: ModelConfig, weight_format: WeightFormat) -> WeightSizes:
    """Add up the tensors of `checkpoint/layout.py` as an engine holds them."""
    lookup_bytes = 2 * model.max_context * (model.head_dim // 2) * _FLOAT32
    dense_bytes = experts_bytes = 0
    for name, shape in canonical_shapes(model).items():
        num_bytes = _tensor_bytes(name, shape, weight_format)
        if ".experts." in name:
            experts_bytes += num_bytes
        elif name == "embedding.weight":
            lookup_bytes += num_bytes
        else:
            dense_bytes += num_bytes
    num_experts = model.num_layers * model.num_experts
    return WeightSizes(lookup_bytes, dense_bytes, experts_bytes // num_experts, model.num_layers)


def _tensor_bytes(name: str, shape: tuple[int, ...], weight_format: WeightFormat) -> int:
    num_rows, num_values = shape[0], math.prod(shape)
    if name.endswith(".scales"):
        return 0  # counted with the blocks
    if name.endswith(".blocks"):
        num_values = num_values // shape[-1] * MXFP4_BLOCK
    if weight_format.is_triton and name.endswith(_MATRICES):
        num_values = _triton_values(name, shape)
    elif name == "unembedding.weight" and weight_format.is_native:
        # The rows of all other matrices are a multiple of a tile's anyway.
        num_values = -(-num_rows // _NATIVE_TILE_ROWS) * _NATIVE_TILE_ROWS * shape[1]
    return int(num_values * _bits(name, weight_format) / 8)


def padded_inputs(num_inputs: int) -> int:
    """Return the inputs that the kernels for GPUs hold of each output of a matrix, and read."""
    return -(-num_inputs // _TRITON_TILE_K) * _TRITON_TILE_K


def _triton_values(name: str, shape: tuple[int, ...]) -> int:
    if not name.endswith(".blocks"):
        return shape[0] * padded_inputs(shape[1])
    num_experts, num_outputs, num_blocks, _ = shape
    num_outputs = -(-num_outputs // _TRITON_TILE_N) * _TRITON_TILE_N
    return num_experts * num_outputs * padded_inputs(num_blocks * MXFP4_BLOCK)


def _bits(name: str, weight_format: WeightFormat) -> float:
    """Return the bits of a value of a tensor."""
    if name.endswith(_WIDE):
        return 8 * weight_format.wide_itemsize
    if name.endswith(".bias"):
        return 8 * weight_format.bias_itemsize
    special = {
        "embedding.weight": 8 * weight_format.itemsize,
        "unembedding.weight": weight_format.unembedding_bits,
    }
    is_packed_expert = name.endswith(".blocks")
    return special.get(name, weight_format.expert_bits if is_packed_expert else weight_format.dense_bits)


def unpacked_experts_fit(model: ModelConfig, num_experts: int, itemsize: int, memory_bytes: int) -> bool:
    """Tell whether the reference unpacks a rank's `num_experts` experts a layer at load, as the network does.

    They must take at most `EXPERT_MEMORY_SHARE` of the memory.
    """
    unpacked_bytes = model.num_layers * num_experts * model.unpacked_expert_bytes(itemsize)
    return unpacked_bytes <= EXPERT_MEMORY_SHARE * memory_bytes
