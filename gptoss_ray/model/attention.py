"""One attention layer: grouped queries, learned sinks, a sliding window on some layers, paged KV."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gptoss_ray.checkpoint.reader import CheckpointReader
from gptoss_ray.kernels.paged_attention import paged_attention
from gptoss_ray.kernels.reference import linear, rotate
from gptoss_ray.model.step_context import StepContext
from gptoss_ray.model.weights import read_weight


@dataclass(frozen=True)
class Attention:
    """Weights and shape of a layer's attention; qkv stacks the q, k and v projections.

    Attributes:
        layer: Its index, which names its part of the KV cache.
        is_sliding: Whether it sees only a window.
        num_heads: Query heads.
        num_kv_heads: Heads of keys and values.
        qkv_weight: [(num_heads + 2 · num_kv_heads) · D, H]; with qkv_bias.
        out_weight: [H, num_heads · D]; with out_bias.
        sinks: float32 [num_heads].
    """

    layer: int
    is_sliding: bool
    num_heads: int
    num_kv_heads: int
    qkv_weight: Tensor
    qkv_bias: Tensor
    out_weight: Tensor
    out_bias: Tensor
    sinks: Tensor

    @classmethod
    def load(
        cls, reader: CheckpointReader, layer: int, dtype: torch.dtype, device: torch.device
    ) -> Attention:
        """Read the weights of `layer`."""

        def read(name: str, dtype: torch.dtype = dtype) -> Tensor:
            return read_weight(reader, f"layers.{layer}.attention.{name}", dtype, device)

        def stacked(part: str) -> Tensor:
            return torch.cat([read(f"{projection}.{part}") for projection in ("q", "k", "v")])

        config = reader.config
        return cls(
            layer=layer,
            is_sliding=config.is_sliding(layer),
            num_heads=config.num_attention_heads,
            num_kv_heads=config.num_key_value_heads,
            qkv_weight=stacked("weight"),
            qkv_bias=stacked("bias"),
            out_weight=read("out.weight"),
            out_bias=read("out.bias"),
            sinks=read("sinks", torch.float32),
        )

    def forward(self, x: Tensor, step: StepContext) -> Tensor:
        """Write the tokens' K and V to the cache, attend, project: x [T padded, H] → [T padded, H]."""
        kind = step.sliding if self.is_sliding else step.full
        qkv = linear(x, self.qkv_weight, self.qkv_bias)[: step.num_tokens]
        num_rotated = self.num_heads + self.num_kv_heads
        head_dim = self.out_weight.shape[1] // self.num_heads
        heads = qkv.view(step.num_tokens, num_rotated + self.num_kv_heads, head_dim)
        rotated = rotate(heads[:, :num_rotated], step.cos, step.sin)
        q, k = rotated[:, : self.num_heads], rotated[:, self.num_heads :].to(x.dtype)
        step.kv_cache.write(self.layer, kind.slot_mapping, k, heads[:, num_rotated:])

        attended = x.new_zeros(x.shape[0], self.out_weight.shape[1])
        keys, values = step.kv_cache.keys(self.layer), step.kv_cache.values(self.layer)
        paged_attention(q, keys, values, kind.plans, self.sinks, attended)
        return linear(attended, self.out_weight, self.out_bias)
