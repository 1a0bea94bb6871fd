"""NativeAttentionPlan: what the layers of one kind share in a step, checked and laid out for C++ once."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

import torch
from torch import Tensor

from gptoss_ray.kernels.kernels import AttentionPlan, AttentionRows, HeadShape, LayerCaches
from gptoss_ray.kernels.native.arguments import address, contiguous, sizes
from gptoss_ray.kernels.native.library import CAttention


@dataclass(frozen=True, eq=False)
class NativeAttentionPlan:
    """The arguments of a step; the layers fill in their own, one after the other.

    Attributes:
        num_tokens: T.
        heads: Of the layers.
        block_size: Tokens a block.
        arguments: Points into `tensors`.
        address: Of `arguments`.
        tensors: Kept alive.
    """

    num_tokens: int
    heads: HeadShape
    block_size: int
    arguments: CAttention
    address: int
    tensors: tuple[Tensor, ...]

    @classmethod
    def of(cls, rows: AttentionRows, heads: HeadShape, block_size: int) -> NativeAttentionPlan:
        """Check the rows and lay them out.

        Raises:
            ValueError: A tensor is of another dtype or shape, a row's sequence or position lies outside the
                block table, or the window is not positive.
        """
        num_tokens = rows.positions.numel()
        tensors = {
            name: contiguous(name, getattr(rows, name), dtype, shape)
            for name, dtype, shape in (
                ("positions", torch.int64, (num_tokens,)),
                ("sequence_index", torch.int64, (num_tokens,)),
                ("slot_mapping", torch.int64, (num_tokens,)),
                ("cos", torch.float32, (num_tokens, heads.head_dim // 2)),
                ("sin", torch.float32, (num_tokens, heads.head_dim // 2)),
            )
        }
        table_shape = sizes("block_table", rows.block_table, 2)
        tensors["block_table"] = contiguous("block_table", rows.block_table, torch.int32, table_shape)
        _check_range("sequence_index", tensors["sequence_index"], table_shape[0])
        _check_range("positions", tensors["positions"], table_shape[1] * block_size)
        arguments = CAttention(
            num_tokens=num_tokens,
            num_heads=heads.num_heads,
            num_kv_heads=heads.num_kv_heads,
            head_dim=heads.head_dim,
            block_size=block_size,
            window=_window(rows.window),
            table_stride=table_shape[1],
            **{name: tensor.data_ptr() for name, tensor in tensors.items()},
        )
        place = ctypes.addressof(arguments)
        return cls(num_tokens, heads, block_size, arguments, place, tuple(tensors.values()))

    def point_at(self, keys: Tensor, values: Tensor, sinks: Tensor) -> None:
        """Fill in what one layer has of its own; ValueError where it does not fit the plan."""
        self._point_at(keys, values, ())
        self.arguments.sinks = address("sinks", sinks, torch.float32, (self.heads.num_heads,))

    def point_at_all(self, cache: LayerCaches, num_heads: int) -> int:
        """Fill in the cache of all layers, which have so many query heads, and return its number of places.

        Raises:
            ValueError: It, or the number of heads, does not fit the plan.
        """
        if num_heads != self.heads.num_heads:
            raise ValueError(
                f"the layers have {num_heads} sinks; the plan is of {self.heads.num_heads} heads"
            )
        num_places = cache.keys.shape[0] if cache.keys.dim() else 0
        self._point_at(*cache, (num_places,))
        return num_places

    def _point_at(self, keys: Tensor, values: Tensor, places: tuple[int, ...]) -> None:
        arguments, heads = self.arguments, self.heads
        num_blocks = keys.shape[len(places)] if keys.dim() > len(places) else 0
        shape = (*places, num_blocks, heads.num_kv_heads, self.block_size, heads.head_dim)
        arguments.num_blocks = num_blocks
        arguments.keys = address("keys", keys, torch.bfloat16, shape)
        arguments.values = address("values", values, torch.bfloat16, shape)


def native_plan(plan: AttentionPlan) -> NativeAttentionPlan:
    """Return the plan as what it is; ValueError if other kernels made it."""
    if isinstance(plan, NativeAttentionPlan):
        return plan
    raise ValueError(f"plan is a {type(plan).__name__}; it must be one of NativeKernels.plan_attention")


def _window(window: int | None) -> int:
    if window is None:
        return 0
    if window < 1:
        raise ValueError(f"window is {window}; it must be at least 1, or None")
    return window


def _check_range(name: str, values: Tensor, end: int) -> None:
    if not values.numel():
        return
    smallest, largest = (int(value) for value in values.aminmax())
    if smallest < 0 or largest >= end:
        raise ValueError(f"{name} holds {smallest} to {largest}; it must lie in 0 to {end - 1}")
