"""The gpt-oss network of one rank: (weights, ForwardBatch, KV cache) → logits."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from gptoss_ray.checkpoint.model_config import ModelConfig
from gptoss_ray.checkpoint.reader import CheckpointReader
from gptoss_ray.config import EXPERT_MEMORY_SHARE
from gptoss_ray.kernels.backend import Backend, numerics_fingerprint, select_backend
from gptoss_ray.kernels.reference import linear, pad_rows, rms_norm
from gptoss_ray.kvcache.kv_cache import KVCache
from gptoss_ray.model.attention import Attention
from gptoss_ray.model.expert_shard import ExpertShard
from gptoss_ray.model.forward_batch import ForwardBatch
from gptoss_ray.model.host_memory import host_memory_bytes
from gptoss_ray.model.moe import MoE
from gptoss_ray.model.rotary_embedding import RotaryEmbedding
from gptoss_ray.model.step_context import StepContext
from gptoss_ray.model.weights import read_weight
from gptoss_ray.parallel.token_dispatcher import LocalTokenDispatcher, TokenDispatcher

_LOG = logging.getLogger(__name__)

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
        backend: The kernels that run, and why.
        config: Shape of the network.
        dtype: Of activations, KV and dense weights.
        embedding: [V, H].
        layers: In order.
        final_norm: float32 [H].
        unembedding: float32 [V, H], so that logits are not rounded to bfloat16.
        rotary_embedding: Angles of every position.
    """

    backend: Backend
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
        expert_ids: Sequence[Sequence[int]] | None = None,
        dispatchers: Sequence[TokenDispatcher] | None = None,
        expert_memory_share: float = EXPERT_MEMORY_SHARE,
        progress: LoadProgress | None = None,
    ) -> Transformer:
        """Read the weights of one rank from a checkpoint.

        Args:
            reader: The checkpoint.
            dtype: Of activations, KV and dense weights: bfloat16 or float32.
            device: Where the weights live.
            expert_ids: For every layer the experts on this rank, in the order of its slots; None: all.
            dispatchers: For every layer what connects the ranks' experts; None: all experts are here.
            expert_memory_share: MXFP4 experts are unpacked at load if all of this rank's take at most
                this share of the machine's memory, else at every use. No result depends on it.
            progress: Told of each part loaded.

        Raises:
            ConfigError: No kernels run on `device`.
        """
        backend = select_backend(device)
        config = reader.config
        device = torch.device(device)
        expert_ids = expert_ids or [range(config.num_experts)] * config.num_layers
        dispatchers = dispatchers or [LocalTokenDispatcher(config.num_experts)] * config.num_layers
        materialize = _experts_fit(config, expert_ids, dtype, expert_memory_share)
        num_parts = config.num_layers + 1

        def norm(name: str) -> Tensor:
            return read_weight(reader, f"{name}.weight", torch.float32, device)

        def load_layer(layer: int) -> TransformerLayer:
            experts = ExpertShard.load(
                reader, layer, expert_ids[layer], dtype, device, materialize=materialize
            )
            loaded = TransformerLayer(
                attention_norm=norm(f"layers.{layer}.attention.norm"),
                attention=Attention.load(reader, layer, dtype, device),
                moe_norm=norm(f"layers.{layer}.moe.norm"),
                moe=MoE.load(reader, layer, device, experts=experts, dispatcher=dispatchers[layer]),
            )
            if progress is not None:
                progress(layer + 1, num_parts)
            return loaded

        transformer = cls(
            backend=backend,
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

    def with_layer(self, index: int, experts: ExpertShard, dispatcher: TokenDispatcher) -> Transformer:
        """Return this network with other experts in one layer; all other weights are shared with it."""
        layers = list(self.layers)
        moe = replace(layers[index].moe, experts=experts, dispatcher=dispatcher)
        layers[index] = replace(layers[index], moe=moe)
        return replace(self, layers=tuple(layers))

    def numerics_fingerprint(self, block_size: int) -> str:
        """Return what results' bits depend on besides weights and request (law 1)."""
        return numerics_fingerprint(self.backend, self.dtype, block_size)

    @torch.inference_mode()
    def forward(self, batch: ForwardBatch, kv_cache: KVCache) -> Tensor:
        """Write the tokens' K and V to the cache and return float32 logits [L, V] of `batch.logits_rows`.

        Every rank of a group calls this once a step, also with no tokens.
        """
        max_num_tokens = batch.num_tokens if batch.max_num_tokens is None else batch.max_num_tokens
        for layer in self.layers:
            layer.moe.dispatcher.begin_step(max_num_tokens)
        step = StepContext.of(batch, kv_cache, self.config, self.rotary_embedding)
        hidden = pad_rows(self.embedding[batch.token_ids])
        for layer in self.layers:
            hidden = layer.forward(hidden, step, self.config.rms_norm_eps)
        wanted = pad_rows(hidden[batch.logits_rows])
        normed = rms_norm(wanted, self.final_norm, self.config.rms_norm_eps)
        return linear(normed.float(), self.unembedding)[: batch.logits_rows.shape[0]]


def _experts_fit(
    config: ModelConfig, expert_ids: Sequence[Sequence[int]], dtype: torch.dtype, share: float
) -> bool:
    """Decide whether the experts of all layers, unpacked, fit their share of the memory, and log it."""
    unpacked_bytes = sum(map(len, expert_ids)) * config.unpacked_expert_bytes(dtype.itemsize)
    allowed_bytes = int(share * host_memory_bytes())
    fit = unpacked_bytes <= allowed_bytes
    _LOG.info(
        "experts=%s unpacked_bytes=%d allowed_bytes=%d",
        "unpacked" if fit else "packed",
        unpacked_bytes,
        allowed_bytes,
    )
    return fit
