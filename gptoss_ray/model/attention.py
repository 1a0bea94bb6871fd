"""One attention layer: grouped queries, learned sinks, a sliding window on some layers, paged KV."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gptoss_ray.kernels.kernels import Matrix, Norm, StoredMatrix
from gptoss_ray.model.step_context import StepContext
from gptoss_ray.model.weight_loader import WeightLoader


@dataclass(frozen=True)
class Attention:
    """Weights of a layer's attention.

    Attributes:
        layer: Its index, which names its part of the KV cache.
        is_sliding: Whether it sees only a window.
        norm: Before it.
        qkv: The q, k and v projections, one below the other: [(heads + 2 · kv_heads) · D, H].
        out: [H, heads · D].
        sinks: float32 [heads].
    """

    layer: int
    is_sliding: bool
    norm: Norm
    qkv: Matrix
    out: Matrix
    sinks: Tensor

    @classmethod
    def load(cls, loader: WeightLoader, layer: int) -> Attention:
        """Read the weights of `layer`."""
        config, name = loader.reader.config, f"layers.{layer}.attention"

        def read_qkv() -> tuple[StoredMatrix, Tensor]:
            weights = [loader.reader.read(f"{name}.{projection}.weight") for projection in "qkv"]
            biases = [loader.reader.read(f"{name}.{projection}.bias") for projection in "qkv"]
            return torch.cat(weights), torch.cat(biases)

        def read_out() -> tuple[StoredMatrix, Tensor]:
            return loader.reader.read(f"{name}.out.weight"), loader.reader.read(f"{name}.out.bias")

        query_width = config.num_attention_heads * config.head_dim
        qkv_width = query_width + 2 * config.num_key_value_heads * config.head_dim
        shapes = {"qkv": (qkv_width, config.hidden_size), "out": (config.hidden_size, query_width)}
        matrices = loader.matrices(name, shapes, {"qkv": read_qkv, "out": read_out})
        return cls(
            layer=layer,
            is_sliding=config.is_sliding(layer),
            norm=loader.norm(f"{name}.norm"),
            sinks=loader.read(f"{name}.sinks"),
            **matrices,
        )

    def forward(self, hidden: Tensor, step: StepContext) -> Tensor:
        """Write the tokens' K and V to the cache, attend, and add to the residual stream: [T, H] → [T, H]."""
        qkv = step.kernels.norm_linear(hidden, self.norm, self.qkv)
        plan = step.sliding if self.is_sliding else step.full
        keys, values = step.kv_cache.keys(self.layer), step.kv_cache.values(self.layer)
        attended = step.kernels.attention(qkv, plan, keys, values, self.sinks)
        return step.kernels.linear_add(attended, self.out, hidden)
