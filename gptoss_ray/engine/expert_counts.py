"""What the dispatchers of a network have counted: which experts were chosen, and what travelled to them."""

from __future__ import annotations

from collections.abc import Iterator

from gptoss_ray.model.moe import DispatchedMoE
from gptoss_ray.model.transformer import Transformer
from gptoss_ray.parallel.all_to_all import AllToAllTokenDispatcher
from gptoss_ray.parallel.timed_all_to_all import ExpertTraffic


def expert_load(transformer: Transformer) -> tuple[tuple[int, ...], ...]:
    """Return how often this rank's tokens chose each expert [layers][E]; nothing of a rank alone.

    Such a rank runs all its layers in one call of the kernels, which tell no choices.
    """
    return tuple(tuple(dispatcher.expert_load.tolist()) for dispatcher in dispatchers(transformer))


def expert_traffic(transformer: Transformer) -> ExpertTraffic:
    """Return what travelled to and from the experts of this rank; nothing of a rank alone."""
    return next((dispatcher.exchange.traffic for dispatcher in dispatchers(transformer)), ExpertTraffic())


def dispatchers(transformer: Transformer) -> Iterator[AllToAllTokenDispatcher]:
    """Yield the dispatcher of every layer; none of a rank alone."""
    for layer in transformer.layers:
        if isinstance(layer.moe, DispatchedMoE) and isinstance(layer.moe.dispatcher, AllToAllTokenDispatcher):
            yield layer.moe.dispatcher
