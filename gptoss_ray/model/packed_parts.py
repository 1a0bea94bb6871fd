"""The parts of a network that are packed one by one, and the store that keeps them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from gptoss_ray.checkpoint.model_config import MXFP4_BITS, ModelConfig
from gptoss_ray.checkpoint.reader import CheckpointReader
from gptoss_ray.checkpoint.weight_source import WeightSource
from gptoss_ray.config import DENSE_BITS, EngineConfig
from gptoss_ray.kernels.kernels import Kernels
from gptoss_ray.model.packed_identity import PackedIdentity
from gptoss_ray.model.packed_store import InMemoryStore, PackedStore, PartStore

_BIAS_BYTES = 4


def part_bytes(
    config: ModelConfig, dense_weights: Literal["bfloat16", "int8"], expert_ids: Sequence[Sequence[int]]
) -> dict[str, int]:
    """Return about how many bytes each part of a rank takes packed, in the order in which they are loaded.

    Args:
        config: Shape of the network.
        dense_weights: Format of all but MXFP4 experts.
        expert_ids: Of this rank, for every layer.
    """
    hidden, width = config.hidden_size, config.intermediate_size
    query_width = config.num_attention_heads * config.head_dim
    qkv_width = query_width + 2 * config.num_key_value_heads * config.head_dim
    dense_bits = DENSE_BITS[dense_weights]
    expert_bits = MXFP4_BITS if config.expert_format == "mxfp4" else dense_bits

    attention = _num_bytes((qkv_width + query_width) * hidden, dense_bits, qkv_width + hidden)
    expert = _num_bytes(3 * width * hidden, expert_bits, 2 * width + hidden)
    sizes = {}
    for layer in range(config.num_layers):
        sizes[f"layers.{layer}.attention"] = attention
        sizes |= {f"layers.{layer}.experts.{number}": expert for number in expert_ids[layer]}
    sizes["unembedding"] = _num_bytes(config.vocab_size * hidden, dense_bits, 0)
    return sizes


def open_store(
    reader: WeightSource, kernels: Kernels, engine: EngineConfig, part_bytes: Mapping[str, int]
) -> PartStore:
    """Open the folder where packed weights are kept, where there is one and these kernels profit by it.

    Raises:
        ConfigError: It cannot be written.
    """
    if engine.packed_weights is None or kernels.packing is None:
        return InMemoryStore(huge_pages=kernels.packing is not None)
    assert isinstance(reader, CheckpointReader), "only weights from files are kept packed"
    identity = PackedIdentity.of(reader, packing_version=kernels.packing, dense_format=engine.dense_weights)
    return PackedStore.open(Path(engine.packed_weights), identity, part_bytes)


def _num_bytes(num_values: int, bits: float, num_biases: int) -> int:
    return int(num_values * bits / 8) + num_biases * _BIAS_BYTES
