"""The KV tensors: one physical pool of blocks, shared by full and window layers.

Full and window layers need different numbers of blocks, and how many depends on the prompts. So a
block is storage for one layer *group* (all full layers, or all window layers): layer l uses the
storage index it has within its group, and a block id belongs to one group at a time. The published
models have as many full as window layers, so nothing is wasted.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from gptoss_ray.huge_memory import huge_memory

SLIDING = "sliding_attention"


class KVCache:
    """Keys and values of every layer, addressed by block id and offset.

    Args:
        num_blocks: Blocks in the pool.
        block_size: Tokens a block.
        num_kv_heads: KV heads of a layer.
        head_dim: Elements a head.
        layer_types: Per layer "sliding_attention" or "full_attention".
        dtype: Of keys and values.
        device: Where the tensors live.
        has_spare_block: Whether there is one block more, which no sequence has, for rows that pad a step.
    """

    def __init__(
        self,
        num_blocks: int,
        block_size: int,
        num_kv_heads: int,
        head_dim: int,
        layer_types: Sequence[str],
        dtype: torch.dtype,
        device: torch.device | str = "cpu",
        *,
        has_spare_block: bool = False,
    ) -> None:
        self.num_blocks = num_blocks
        self.block_size = block_size
        self._storage_index = storage_indices(layer_types)
        shape = (
            max(self._storage_index) + 1,
            num_blocks + has_spare_block,
            num_kv_heads,
            block_size,
            head_dim,
        )
        self._keys, self._values = (_zeros(shape, dtype, torch.device(device)) for _ in range(2))

    @property
    def device(self) -> torch.device:
        """Where the tensors live."""
        return self._keys.device

    @property
    def dtype(self) -> torch.dtype:
        """Of keys and values."""
        return self._keys.dtype

    @property
    def spare_block(self) -> int:
        """Id of a block behind the pool's, which no sequence has: padding writes there."""
        assert self._keys.shape[1] > self.num_blocks, "a cache without a spare block"
        return self.num_blocks

    @property
    def all_keys(self) -> torch.Tensor:
        """Of all storage places: [places, num_blocks, num_kv_heads, block_size, head_dim]."""
        return self._keys

    @property
    def all_values(self) -> torch.Tensor:
        """Of the same shape."""
        return self._values

    def keys(self, layer: int) -> torch.Tensor:
        """Keys of a layer, a view [num_blocks, num_kv_heads, block_size, head_dim]."""
        return self._keys[self._storage_index[layer]]

    def values(self, layer: int) -> torch.Tensor:
        """Values of a layer, a view [num_blocks, num_kv_heads, block_size, head_dim]."""
        return self._values[self._storage_index[layer]]


def _zeros(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Return zeros, on a CPU in huge pages."""
    if device.type != "cpu":
        return torch.zeros(shape, dtype=dtype, device=device)
    return huge_memory(math.prod(shape) * dtype.itemsize).view(dtype).view(shape)


def bytes_per_block(
    block_size: int, num_kv_heads: int, head_dim: int, layer_types: Sequence[str], dtype: torch.dtype
) -> int:
    """Bytes of keys and values that one block takes over the layers of its group."""
    num_storage_layers = max(storage_indices(layer_types)) + 1
    return 2 * num_storage_layers * block_size * num_kv_heads * head_dim * dtype.itemsize


def storage_indices(layer_types: Sequence[str]) -> list[int]:
    """Each layer's index within its group: its place in the storage of a block."""
    num_seen = {True: 0, False: 0}
    indices = []
    for layer_type in layer_types:
        is_sliding = layer_type == SLIDING
        indices.append(num_seen[is_sliding])
        num_seen[is_sliding] += 1
    return indices
