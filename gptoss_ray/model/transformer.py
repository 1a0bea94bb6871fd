"""The gpt-oss network of one rank: (weights, ForwardBatch, KV cache) → logits."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from gptoss_ray.checkpoint.model_config import ModelConfig
from gptoss_ray.checkpoint.weight_source import WeightSource
from gptoss_ray.config import EXPERT_MEMORY_SHARE, EngineConfig
from gptoss_ray.kernels.backend import Backend, make_kernels, select_backend
from gptoss_ray.kernels.kernels import Kernels, LayerCaches, LayerStack, LayerWeights, Matrix, Norm
from gptoss_ray.kvcache.kv_cache import KVCache, storage_indices
from gptoss_ray.model.attention import Attention
from gptoss_ray.model.expert_shard import ExpertShard
from gptoss_ray.model.forward_batch import ForwardBatch
from gptoss_ray.model.host_memory import host_memory_bytes
from gptoss_ray.model.moe import DispatchedMoE, MoE, load_moe
from gptoss_ray.model.packed_parts import open_store, part_bytes
from gptoss_ray.model.rotary_embedding import RotaryEmbedding
from gptoss_ray.model.step_context import StepContext
from gptoss_ray.model.weight_loader import WeightLoader
from gptoss_ray.parallel.token_dispatcher import StepExchange, TokenDispatcher

_LOG = logging.getLogger(__name__)

# Called after each part is loaded: parts done, parts in all.
LoadProgress = Callable[[int, int], None]


@dataclass(frozen=True)
class TransformerLayer:
    """Attention and experts of one layer, each behind its norm."""

    attention: Attention
    moe: MoE

    def weights(self, cache_index: int) -> LayerWeights:
        """Return them as the kernels want them where all experts are here."""
        attention, moe = self.attention, self.moe
        return LayerWeights(
            attention=attention.weights,
            is_sliding=attention.is_sliding,
            cache_index=cache_index,
            norm=moe.norm,
            gate=moe.gate,
            table=moe.experts.table,
            swiglu=moe.experts.swiglu,
        )


@dataclass(frozen=True)
class Transformer:
    """All weights of one rank.

    Attributes:
        backend: The kernels that run, and why.
        loader: What its weights came through, for others later.
        config: Shape of the network.
        embedding: [V, H], in the dtype of activations and KV; perhaps a view of the checkpoint's file.
        layers: In order.
        final_norm: Before the unembedding.
        unembedding: [V, H], wide, so that logits are not rounded to bfloat16.
        rotary_embedding: Angles of every position.
    """

    backend: Backend
    loader: WeightLoader
    config: ModelConfig
    embedding: Tensor
    layers: tuple[TransformerLayer, ...]
    final_norm: Norm
    unembedding: Matrix
    rotary_embedding: RotaryEmbedding

    @classmethod
    def load(
        cls,
        reader: WeightSource,
        engine: EngineConfig | None = None,
        *,
        device: str = "cpu",
        expert_ids: Sequence[Sequence[int]] | None = None,
        dispatchers: Sequence[TokenDispatcher] | None = None,
        expert_memory_share: float = EXPERT_MEMORY_SHARE,
        progress: LoadProgress | None = None,
    ) -> Transformer:
        """Read the weights of one rank from a checkpoint.

        Args:
            reader: The checkpoint.
            engine: What computes, in which dtype; None: the defaults.
            device: Where the weights live.
            expert_ids: For every layer the experts on this rank, in the order of its slots; None: all.
            dispatchers: For every layer what connects the ranks' experts; None: all experts are here.
            expert_memory_share: Without native kernels MXFP4 experts are unpacked at load if all of this
                rank's take at most this share of the machine's memory, else at every use. No result
                depends on it.
            progress: Told of each part loaded.

        Raises:
            ConfigError: The kernels that are asked for cannot run here, or packed weights cannot be kept
                where they are to be kept.
        """
        config, engine = reader.config, engine or EngineConfig()
        expert_ids = expert_ids or [range(config.num_experts)] * config.num_layers
        num_parts = config.num_layers + 1

        backend = select_backend(engine, config, device)
        _LOG.info("kernels=%s reason=%r", backend.name, backend.reason)
        dtype: torch.dtype = getattr(torch, engine.dtype)
        unpacks = backend.is_reference and _experts_fit(config, expert_ids, dtype, expert_memory_share)
        kernels = make_kernels(backend, engine, unpacks_mxfp4=unpacks)
        sizes = part_bytes(config, engine.dense_weights, expert_ids)
        store = open_store(reader, kernels, engine, sizes)
        loader = WeightLoader(reader, kernels, store, torch.device(device))

        def load_layer(layer: int) -> TransformerLayer:
            attention = Attention.load(loader, layer)
            experts = ExpertShard.load(loader, layer, expert_ids[layer])
            moe = load_moe(loader, layer, experts, dispatchers[layer] if dispatchers else None)
            if progress is not None:
                progress(layer + 1, num_parts)
            return TransformerLayer(attention, moe)

        with store.reading_ahead(list(sizes)):
            transformer = cls(
                backend=backend,
                loader=loader,
                config=config,
                layers=tuple(load_layer(layer) for layer in range(config.num_layers)),
                embedding=loader.table("embedding.weight", dtype),
                final_norm=loader.norm("final_norm"),
                unembedding=_load_unembedding(loader),
                rotary_embedding=RotaryEmbedding(config, device),
            )
        if progress is not None:
            progress(num_parts, num_parts)
        return transformer

    @property
    def dtype(self) -> torch.dtype:
        """Of activations and KV."""
        return self.embedding.dtype

    @property
    def kernels(self) -> Kernels:
        """All arithmetic."""
        return self.loader.kernels

    @property
    def exchange(self) -> StepExchange | None:
        """What tokens travel through to experts elsewhere; None: all experts are here."""
        moe = self.layers[0].moe
        return moe.dispatcher.exchange if isinstance(moe, DispatchedMoE) else None

    @property
    def meets_other_ranks(self) -> bool:
        """Whether tokens travel to experts elsewhere."""
        return any(isinstance(layer.moe, DispatchedMoE) for layer in self.layers)

    def with_layer(self, index: int, experts: ExpertShard, dispatcher: TokenDispatcher) -> Transformer:
        """Return this network with other experts in one layer; all other weights are shared with it."""
        layers = list(self.layers)
        moe = layers[index].moe
        assert isinstance(moe, DispatchedMoE), "a rank alone has nothing to swap"
        moe = replace(moe, experts=experts, dispatcher=dispatcher)
        layers[index] = replace(layers[index], moe=moe)
        return replace(self, layers=tuple(layers))

    @torch.inference_mode()
    def forward(self, batch: ForwardBatch, kv_cache: KVCache) -> Tensor:
        """Write the tokens' K and V to the cache and return float32 logits [L, V] of `batch.logits_rows`.

        Every rank of a group calls this once a step, also with no tokens.
        """
        step = StepContext.of(batch, kv_cache, self.config, self.rotary_embedding, self.kernels)
        hidden = self.embedding[batch.token_ids]
        if self.stack is None:
            hidden = self._with_other_ranks(hidden, batch, step)
        else:
            cache = LayerCaches(kv_cache.all_keys, kv_cache.all_values)
            hidden = self.kernels.layers(hidden, self.stack, step.plans, cache)
        return self.kernels.norm_linear(hidden[batch.logits_rows], self.final_norm, self.unembedding)

    @cached_property
    def stack(self) -> LayerStack | None:
        """The layers, for one call of the kernels; None where tokens travel to experts elsewhere."""
        if self.meets_other_ranks:
            return None
        places = storage_indices(self.config.layer_types)
        return self.kernels.layer_stack(
            [layer.weights(place) for layer, place in zip(self.layers, places, strict=True)]
        )

    def _with_other_ranks(self, hidden: Tensor, batch: ForwardBatch, step: StepContext) -> Tensor:
        """Go through the layers, and meet the other ranks in each."""
        max_num_tokens = batch.num_tokens if batch.max_num_tokens is None else batch.max_num_tokens
        mixtures = [layer.moe for layer in self.layers if isinstance(layer.moe, DispatchedMoE)]
        for moe in mixtures:
            moe.begin_step(max_num_tokens, batch.is_token)
        for layer, moe in zip(self.layers, mixtures, strict=True):
            hidden = moe.forward(layer.attention.forward(hidden, step), step.kernels)
        return hidden


def _load_unembedding(loader: WeightLoader) -> Matrix:
    config, name = loader.reader.config, "unembedding"
    shapes = {name: (config.vocab_size, config.hidden_size)}
    reads = {name: lambda: (loader.reader.read("unembedding.weight"), None)}
    return loader.matrices(name, shapes, reads, is_wide=True)[name]


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
