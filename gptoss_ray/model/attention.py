"""One attention layer: grouped queries, learned sinks, a sliding window on some layers, paged KV."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gptoss_ray.kernels.kernels import AttentionWeights, StoredMatrix
from gptoss_ray.model.step_context import StepContext
from gptoss_ray.model.weight_loader import WeightLoader


@dataclass(frozen=True)
class Attention:
    """A layer's attention.

    Attributes:
        layer: Its index, which names its part of the KV cache.
        is_sliding: Whether it sees only a window.
        weights: And the norm before it.
    """

    layer: int
    is_sliding: bool
    weights: AttentionWeights

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
        norm, sinks = loader.norm(f"{name}.norm"), loader.read(f"{name}.sinks")
        return cls(layer, config.is_sliding(layer), AttentionWeights(norm=norm, sinks=sinks, **matrices))

    def forward(self, hidden: Tensor, step: StepContext) -> Tensor:
        """Write the tokens' K and V to the cache, attend, and add to the residual stream: [T, H] → [T, H]."""
        plan = step.plans.sliding if self.is_sliding else step.plans.full
        keys, values = step.kv_cache.keys(self.layer), step.kv_cache.values(self.layer)
        return step.kernels.attention_layer(hidden, self.weights, plan, keys, values)
