"""NativeLayerStack: the layers of a rank that has all experts, checked and laid out for C++ once."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from gptoss_ray.kernels.kernels import LayerStack, LayerWeights
from gptoss_ray.kernels.native.arguments import address
from gptoss_ray.kernels.native.library import CLayer
from gptoss_ray.kernels.native.packed import packed
from gptoss_ray.kernels.native.packed_experts import native_table


@dataclass(frozen=True, eq=False)
class NativeLayerStack:
    """A LayerStack.

    Attributes:
        layers: Kept alive, in order.
        hidden_size: H.
        num_heads: Query heads of every layer.
        address: Of an array of CLayer, one per layer.
    """

    layers: tuple[LayerWeights, ...]
    hidden_size: int
    num_heads: int
    address: int
    _array: ctypes.Array[CLayer] = field(repr=False)

    @classmethod
    def of(cls, layers: Sequence[LayerWeights]) -> NativeLayerStack:
        """Lay the layers out.

        Raises:
            ValueError: There are none, a tensor is of another dtype or shape, or a part is of other kernels.
        """
        if not layers:
            raise ValueError("layers are none; there must be at least one")
        first = layers[0].attention
        hidden_size, num_heads = packed("qkv", first.qkv).shape[1], first.sinks.numel()
        array = (CLayer * len(layers))(*(_layer(layer, hidden_size, num_heads) for layer in layers))
        return cls(tuple(layers), hidden_size, num_heads, ctypes.addressof(array), array)


def native_stack(stack: LayerStack) -> NativeLayerStack:
    """Return the stack as what it is; ValueError if other kernels made it."""
    if isinstance(stack, NativeLayerStack):
        return stack
    raise ValueError(f"stack is a {type(stack).__name__}; it must be one of NativeKernels.layer_stack")


def _layer(layer: LayerWeights, hidden_size: int, num_heads: int) -> CLayer:
    attention, table = layer.attention, native_table(layer.table)
    qkv, out = packed("qkv", attention.qkv), packed("out", attention.out)
    num_experts, float32 = len(table.experts), torch.float32
    for name, width in (("qkv", qkv.shape[1]), ("experts", table.hidden_size)):
        if width != hidden_size:
            raise ValueError(f"{name} of a layer take rows of {width}; all of a stack need {hidden_size}")
    gate = layer.gate
    return CLayer(
        qkv=qkv.address,
        out=out.address,
        attention_norm=address("norm.weight", attention.norm.weight, float32, (hidden_size,)),
        sinks=address("sinks", attention.sinks, float32, (num_heads,)),
        norm=address("norm.weight", layer.norm.weight, float32, (hidden_size,)),
        gate_weight=address("gate.weight", gate.weight, float32, (num_experts, hidden_size)),
        gate_bias=address("gate.bias", gate.bias, float32, (num_experts,)),
        gate_up=table.gate_up,
        down=table.down,
        num_rows=table.num_rows,
        num_experts=num_experts,
        num_chosen=gate.experts_per_token,
        is_sliding=layer.is_sliding,
        cache_index=layer.cache_index,
        attention_eps=attention.norm.eps,
        eps=layer.norm.eps,
        alpha=layer.swiglu.alpha,
        limit=layer.swiglu.limit,
    )
