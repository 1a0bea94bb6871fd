"""The experts of a rank in service: other ones in a layer, or in all. Imports torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor

from gptoss_ray.checkpoint.reader import CheckpointReader
from gptoss_ray.engine.expert_counts import dispatchers
from gptoss_ray.model.transformer import Transformer
from gptoss_ray.parallel.all_to_all import AllToAllTokenDispatcher, TokenExchange
from gptoss_ray.parallel.expert_placement import LayerPlacement, copy_table
from gptoss_ray.ranks.layer_swap import LayerSwap


def make_dispatcher(
    exchange: TokenExchange,
    placement: LayerPlacement,
    hosts: Sequence[str],
    expert_load: Tensor | None = None,
) -> AllToAllTokenDispatcher:
    """Return the dispatcher of a layer for this rank.

    Args:
        exchange: What the layers share; knows the rank.
        placement: Of the layer.
        hosts: Host of every rank; copies of an expert are preferred on the same one.
        expert_load: Of the dispatcher that this one follows.
    """
    return AllToAllTokenDispatcher(
        exchange,
        [copy_table(placement, home, hosts) for home in range(len(hosts))],
        placement.local_slots(exchange.rank),
        expert_load,
    )


def with_swap(transformer: Transformer, checkpoint: str, swap: LayerSwap) -> Transformer:
    """Return the network after a swap; it reads only the experts that are new here, and shares the rest.

    Raises:
        CheckpointError: The checkpoint is no longer what was loaded.
    """
    present = list(dispatchers(transformer))[swap.layer]
    dispatcher = make_dispatcher(present.exchange, swap.placement, swap.hosts, present.expert_load)
    loader = replace(transformer.loader, reader=CheckpointReader.open(checkpoint))
    experts = transformer.layers[swap.layer].moe.experts.with_experts(
        loader, swap.layer, present.local_experts, dispatcher.local_experts
    )
    return transformer.with_layer(swap.layer, experts, dispatcher)


def with_placements(
    transformer: Transformer,
    checkpoint: str,
    placements: Sequence[LayerPlacement],
    rank: int,
    hosts: Sequence[str],
) -> Transformer:
    """Return the network as one rank of another epoch has it; it reads only the experts that are new here.

    Args:
        transformer: The network so far.
        checkpoint: What it was loaded from.
        placements: Of every layer, over the ranks of that epoch.
        rank: Of this process in it.
        hosts: Host of every rank.

    Raises:
        CheckpointError: The checkpoint is no longer what was loaded.
    """
    loader = replace(transformer.loader, reader=CheckpointReader.open(checkpoint))
    present = list(dispatchers(transformer))
    exchange = present[0].exchange.of_epoch(rank, len(hosts))
    for layer, (before, placement) in enumerate(zip(present, placements, strict=True)):
        dispatcher = make_dispatcher(exchange, placement, hosts, before.expert_load)
        experts = transformer.layers[layer].moe.experts.with_experts(
            loader, layer, before.local_experts, dispatcher.local_experts
        )
        transformer = transformer.with_layer(layer, experts, dispatcher)
    return transformer
