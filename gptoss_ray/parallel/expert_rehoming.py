"""Where the experts of a layer go when ranks leave a group or come to it. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from gptoss_ray.parallel.expert_placement import LayerPlacement, contiguous


def rehomed(held: Sequence[Sequence[int]], num_experts: int, num_spare: int) -> LayerPlacement:
    """Return a placement in which every expert has a home, for the ranks of the next epoch.

    Who holds an expert keeps it, in the order of its slots; an expert that nobody holds goes to the rank with
    most room. Ranks without room for what they hold then give up experts that have another home, the fullest
    rank first and of its experts the one with most homes. So a rank reads only what was lost, and one that
    comes back with its experts takes them over without anybody reading.

    Args:
        held: For every rank of the next epoch the experts that it holds already.
        num_experts: Of the layer.
        num_spare: Slots of each rank beyond its share of the experts.
    """
    slots = [list(experts) for experts in held]
    capacity = [len(share) + num_spare for share in contiguous(num_experts, len(slots)).slots]
    num_homes = Counter(expert for experts in slots for expert in experts)

    def room(rank: int) -> int:
        return capacity[rank] - len(slots[rank])

    for expert in range(num_experts):
        if not num_homes[expert]:
            slots[max(range(len(slots)), key=room)].append(expert)
            num_homes[expert] = 1
    while giving := [
        rank for rank, experts in enumerate(slots) if room(rank) < 0 and _spare(experts, num_homes)
    ]:
        rank = min(giving, key=room)
        dropped = max(_spare(slots[rank], num_homes), key=lambda expert: (num_homes[expert], expert))
        slots[rank].remove(dropped)
        num_homes[dropped] -= 1
    return LayerPlacement(tuple(map(tuple, slots)))


def _spare(experts: Sequence[int], num_homes: Counter[int]) -> list[int]:
    """Return the experts that have another home."""
    return [expert for expert in experts if num_homes[expert] > 1]
