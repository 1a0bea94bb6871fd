"""What the weights of a rank weigh in memory, and what a decoded token reads of them."""

from __future__ import annotations

import math
from dataclasses import dataclass

from gptoss_ray.checkpoint.layout import canonical_shapes
from gptoss_ray.checkpoint.model_config import MXFP4_BLOCK, ModelConfig
from gptoss_ray.config import EXPERT_MEMORY_SHARE, EngineConfig

_WIDE = ("unembedding.weight", "norm.weight", "gate.weight", "gate.bias", "sinks")
_ROTARY_ITEMSIZE = 4


@dataclass(frozen=True)
class WeightFormat:
    """Bytes per value.

    Attributes:
        dense_itemsize: Of attention, embedding and the experts' biases, of activations and of the KV cache.
        wide_itemsize: Of unembedding, gates, norms and sinks, which the engine keeps in float32.
        experts_packed: Experts stay in MXFP4 (4.25 bits a value), else they have `dense_itemsize`.
    """

    dense_itemsize: int = 2
    wide_itemsize: int = 4
    experts_packed: bool = True

    @classmethod
    def of(cls, engine: EngineConfig, *, experts_packed: bool) -> WeightFormat:
        """Return the format that an engine of this configuration holds."""
        return cls(dense_itemsize=2 if engine.dtype == "bfloat16" else 4, experts_packed=experts_packed)


# What lies on disk: bfloat16 throughout, experts in MXFP4.
AS_PUBLISHED = WeightFormat(wide_itemsize=2)


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
    lookup_bytes = 2 * model.max_context * (model.head_dim // 2) * _ROTARY_ITEMSIZE
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
    num_values = math.prod(shape)
    if name.endswith(".blocks"):
        num_packed = num_values
        num_unpacked = num_packed * MXFP4_BLOCK // shape[-1]
        return num_packed if weight_format.experts_packed else num_unpacked * weight_format.dense_itemsize
    if name.endswith(".scales"):
        return num_values if weight_format.experts_packed else 0
    is_wide = name.endswith(_WIDE)
    return num_values * (weight_format.wide_itemsize if is_wide else weight_format.dense_itemsize)


def unpacked_experts_fit(model: ModelConfig, num_experts: int, itemsize: int, memory_bytes: int) -> bool:
    """Tell whether a CPU rank unpacks its `num_experts` experts a layer at load, as the network does.

    They must take at most `EXPERT_MEMORY_SHARE` of the memory.
    """
    unpacked_bytes = model.num_layers * num_experts * model.unpacked_expert_bytes(itemsize)
    return unpacked_bytes <= EXPERT_MEMORY_SHARE * memory_bytes
