"""LayerSwap: the order to a group's ranks to hold other experts in one layer."""

from __future__ import annotations

from dataclasses import dataclass

from gptoss_ray.parallel.expert_placement import LayerPlacement


@dataclass(frozen=True)
class LayerSwap:
    """One layer at a time: so a rank holds no more than that layer's experts twice.

    Attributes:
        version: Of the experts of all layers together once this swap is made; above all before.
        layer: Its index.
        placement: Where its experts will be.
        hosts: Host of every rank; of the copies of an expert, one on the same host is preferred.
    """

    version: int
    layer: int
    placement: LayerPlacement
    hosts: tuple[str, ...]
