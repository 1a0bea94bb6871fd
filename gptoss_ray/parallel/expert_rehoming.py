"""Where the experts of a layer go when ranks leave a group or come to it. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from gptoss_ray.parallel.expert_placement import LayerPlacement


def rehomed(held: Sequence[Sequence[int]], num_experts: int, num_spare: int) -> LayerPlacement:
    """Return a placement in which every expert has a home, for the ranks of the next epoch.

    Who holds an expert keeps it, in the order of its slots; an expert that nobody holds goes to the rank with
    fewest. Ranks above their share then give up experts that have another home, the fullest rank first and of
    its experts the one with most homes. So a rank reads only what was lost, and one that comes back with its
    experts takes them over without anybody reading.

    Args:
        held: For every rank of the next epoch the experts that it holds already.
        num_experts: Of the layer.
        num_spare: Slots of each rank beyond its share of the experts.
    """
    slots = [list(experts) for experts in held]
    num_homes = Counter(expert for experts in slots for expert in experts)
    for expert in range(num_experts):
        if not num_homes[expert]:
            min(slots, key=len).append(expert)
            num_homes[expert] = 1
    capacity = -(-num_experts // len(slots)) + num_spare
    while (rank := _fullest(slots, num_homes, capacity)) is not None:
        dropped = max(slots[rank], key=lambda expert: (num_homes[expert], expert))
        slots[rank].remove(dropped)
        num_homes[dropped] -= 1
    return LayerPlacement(tuple(map(tuple, slots)))


def _fullest(slots: Sequence[Sequence[int]], num_homes: Counter[int], capacity: int) -> int | None:
    """Return the fullest rank above `capacity` that holds an expert with another home."""
    candidates = [
        rank
        for rank, experts in enumerate(slots)
        if len(experts) > capacity and any(num_homes[expert] > 1 for expert in experts)
    ]
    return max(candidates, key=lambda rank: len(slots[rank]), default=None)
