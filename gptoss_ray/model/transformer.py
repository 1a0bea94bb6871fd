"""The gpt-oss network of one rank: (weights, ForwardBatch, KV cache) → logits."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gptoss_ray.checkpoint.model_config import ModelConfig
from gptoss_ray.checkpoint.reader import CheckpointReader
from gptoss_ray.kernels.reference import linear, pad_rows, rms_norm
from gptoss_ray.kvcache.kv_cache import KVCache
from gptoss_ray.model.attention import Attention
from gptoss_ray.model.expert_shard import ExpertShard
from gptoss_ray.model.forward_batch import ForwardBatch
from gptoss_ray.model.moe import MoE
from gptoss_ray.model.rotary_embedding import RotaryEmbedding
from gptoss_ray.model.step_context import StepContext
from gptoss_ray.model.weights import read_weight
from gptoss_ray.parallel.token_dispatcher import LocalTokenDispatcher, TokenDispatcher

# Called after each part is loaded: parts done, parts in all.
LoadProgress = Callable[[int, int], None]


@dataclass(frozen=True)
class TransformerLayer:
    """Attention and experts of one layer, each behind its norm (float32 weights [H])."""

    attention_norm: Tensor
    attention: Attention
    moe_norm: Tensor
    moe: MoE

    def forward(self, hidden: Tensor, step: StepContext, eps: float) -> Tensor:
        """Return the hidden states [T padded, H] after this layer."""
        hidden = hidden + self.attention.forward(rms_norm(hidden, self.attention_norm, eps), step)
        mixed = self.moe.forward(rms_norm(hidden, self.moe_norm, eps), step.num_tokens)
        return (hidden + mixed).to(hidden.dtype)


@dataclass(frozen=True)
class Transformer:
    """All weights of one rank.

    Attributes:
        config: Shape of the network.
        dtype: Of activations, KV and dense weights.
        embedding: [V, H].
        layers: In order.
        final_norm: float32 [H].
        unembedding: float32 [V, H], so that logits are not rounded to bfloat16.
        rotary_embedding: Angles of every position.
    """

    config: ModelConfig
    dtype: torch.dtype
    embedding: Tensor
    layers: tuple[TransformerLayer, ...]
    final_norm: Tensor
    unembedding: Tensor
    rotary_embedding: RotaryEmbedding

    @classmethod
    def load(
        cls,
        reader: CheckpointReader,
        *,
        dtype: torch.dtype = torch.bfloat16,
        device: torch.device | str = "cpu",
        expert_ids: Sequence[int] | None = None,
        dispatcher: TokenDispatcher | None = None,
        expert_memory_share: float = 0.5,
        progress: LoadProgress | None = None,
    ) -> Transformer:
        """Read the weights of one rank from a checkpoint.

        Args:
            reader: The checkpoint.
            dtype: Of activations, KV and dense weights: bfloat16 or float32.
            device: Where the weights live.
            expert_ids: Experts of every layer on this rank; None: all.
            dispatcher: Connects the ranks' experts; None: all experts are here.
            expert_memory_share: MXFP4 experts are unpacked at load if all of this rank's take at most
                this share of the machine's memory, else at every use. No result depends on it.
            progress: Told of each part loaded.
        """
        config = reader.config
        device = torch.device(device)
        local_experts = range(config.num_experts) if expert_ids is None else expert_ids
        token_dispatcher = dispatcher or LocalTokenDispatcher(config.num_experts)
        unpacked_bytes = _unpacked_expert_bytes(config, len(local_experts), dtype)
        materialize = unpacked_bytes <= expert_memory_share * _memory_bytes()
        num_parts = config.num_layers + 1

        def norm(name: str) -> Tensor:
            return read_weight(reader, f"{name}.weight", torch.float32, device)

        def load_layer(layer: int) -> TransformerLayer:
            experts = ExpertShard.load(reader, layer, local_experts, dtype, device, materialize=materialize)
            loaded = TransformerLayer(
                attention_norm=norm(f"layers.{layer}.attention.norm"),
                attention=Attention.load(reader, layer, dtype, device),
                moe_norm=norm(f"layers.{layer}.moe.norm"),
                moe=MoE.load(reader, layer, device, experts=experts, dispatcher=token_dispatcher),
            )
            if progress is not None:
                progress(layer + 1, num_parts)
            return loaded

        transformer = cls(
            config=config,
            dtype=dtype,
            layers=tuple(load_layer(layer) for layer in range(config.num_layers)),
            embedding=read_weight(reader, "embedding.weight", dtype, device),
            final_norm=norm("final_norm"),
            unembedding=read_weight(reader, "unembedding.weight", torch.float32, device),
            rotary_embedding=RotaryEmbedding(config, device),
        )
        if progress is not None:
            progress(num_parts, num_parts)
        return transformer

    @torch.inference_mode()
    def forward(self, batch: ForwardBatch, kv_cache: KVCache) -> Tensor:
        """Write the tokens' K and V to the cache and return float32 logits [L, V] of `batch.logits_rows`.

        Every rank of a group calls this once a step, also with no tokens.
        """
        step = StepContext.of(batch, kv_cache, self.config, self.rotary_embedding)
        hidden = pad_rows(self.embedding[batch.token_ids])
        for layer in self.layers:
            hidden = layer.forward(hidden, step, self.config.rms_norm_eps)
        wanted = pad_rows(hidden[batch.logits_rows])
        normed = rms_norm(wanted, self.final_norm, self.config.rms_norm_eps)
        return linear(normed.float(), self.unembedding)[: batch.logits_rows.shape[0]]


def _unpacked_expert_bytes(config: ModelConfig, num_experts: int, dtype: torch.dtype) -> int:
    """Return the bytes of `num_experts` experts of every layer in `dtype` (biases left out)."""
    values_per_expert = 3 * config.intermediate_size * config.hidden_size
    return config.num_layers * num_experts * values_per_expert * dtype.itemsize


def _memory_bytes() -> int:
    """Return the machine's physical memory in bytes."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
