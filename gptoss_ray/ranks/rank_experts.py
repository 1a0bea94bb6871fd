"""The experts of a rank in service: how often each was chosen, and other ones in a layer. Imports torch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from gptoss_ray.checkpoint.reader import CheckpointReader
from gptoss_ray.model.moe import DispatchedMoE
from gptoss_ray.model.transformer import Transformer
from gptoss_ray.parallel.all_to_all import AllToAllTokenDispatcher, TokenExchange
from gptoss_ray.parallel.expert_placement import LayerPlacement, copy_table
from gptoss_ray.ranks.layer_swap import LayerSwap


def make_dispatcher(
    exchange: TokenExchange, placement: LayerPlacement, hosts: Sequence[str]
) -> AllToAllTokenDispatcher:
    """Return the dispatcher of a layer for this rank.

    Args:
        exchange: What the layers share; knows the rank.
        placement: Of the layer.
        hosts: Host of every rank; copies of an expert are preferred on the same one.
    """
    return AllToAllTokenDispatcher(
        exchange,
        [copy_table(placement, home, hosts) for home in range(len(hosts))],
        placement.local_slots(exchange.rank),
    )


def take_expert_load(transformer: Transformer) -> list[list[int]]:
    """Return how often this rank's tokens chose each expert [layers][E], and count from zero again."""
    loads = []
    for dispatcher in _dispatchers(transformer):
        loads.append(dispatcher.expert_load.tolist())
        dispatcher.expert_load.zero_()
    return loads


def with_swap(transformer: Transformer, checkpoint: str, swap: LayerSwap) -> Transformer:
    """Return the network after a swap; it reads only the experts that are new here, and shares the rest.

    Raises:
        CheckpointError: The checkpoint is no longer what was loaded.
    """
    present = list(_dispatchers(transformer))[swap.layer]
    dispatcher = make_dispatcher(present.exchange, swap.placement, swap.hosts)
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
    present = list(_dispatchers(transformer))
    exchange = present[0].exchange.of_epoch(rank, len(hosts))
    for layer, (before, placement) in enumerate(zip(present, placements, strict=True)):
        dispatcher = make_dispatcher(exchange, placement, hosts)
        experts = transformer.layers[layer].moe.experts.with_experts(
            loader, layer, before.local_experts, dispatcher.local_experts
        )
        transformer = transformer.with_layer(layer, experts, dispatcher)
    return transformer


def _dispatchers(transformer: Transformer) -> Iterator[AllToAllTokenDispatcher]:
    for layer in transformer.layers:
        assert isinstance(layer.moe, DispatchedMoE), "a rank alone has nothing to swap"
        assert isinstance(layer.moe.dispatcher, AllToAllTokenDispatcher)
        yield layer.moe.dispatcher
