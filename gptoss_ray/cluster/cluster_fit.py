"""Whether the groups of a configuration fit the nodes that a cluster may have. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from gptoss_ray.cluster.node_type import NodeType
from gptoss_ray.ranks.rank_placement import GroupPlacement, NodeResources, find_shortfall, spell_amounts


def find_misfit(
    placements: Sequence[GroupPlacement], head: NodeType, workers: Sequence[NodeType], max_workers: int
) -> str | None:
    """Return why the groups do not fit, with the field to change, its value and the remedy; else None.

    Nodes whose resources are not known beforehand are taken to hold what is asked of them.

    Args:
        placements: One of each replica that is to start.
        head: The head node.
        workers: The types of all other nodes.
        max_workers: Of all types together.
    """
    types = [head, *workers]
    for placement in placements:
        problem = _misfit_alone(placement, types) or _too_few_workers(placement, head, max_workers)
        if problem is not None:
            return problem
    shortfall = find_shortfall(placements, _nodes(placements, head, workers, max_workers))
    if shortfall is None:
        return None
    counts = ", ".join(f"{type_.count_field} is {type_.max_nodes}" for type_ in workers)
    return f"{counts}, max_workers is {max_workers}, and {shortfall} Raise them, or start fewer replicas."


def _misfit_alone(placement: GroupPlacement, types: Sequence[NodeType]) -> str | None:
    """Return why a group would not even fit the empty cluster."""
    holding = [type_ for type_ in types if type_.may_hold(placement.bundle)]
    if not holding:
        found = ", ".join(
            f"{type_.amounts_field} is {_spelled(type_.amounts, placement.bundle)}" for type_ in types
        )
        return (
            f"{found}, but {placement.model} needs {placement}. Take larger nodes, or lower "
            "parallel.num_ranks or engine.num_threads, or raise parallel.num_nodes."
        )
    if sum(type_.max_nodes for type_ in holding) >= placement.num_nodes:
        return None
    found = ", ".join(f"{type_.count_field} gives {_nodes_text(type_.max_nodes)}" for type_ in holding)
    return (
        f"{found}, but {placement.model} needs {placement}. Have {placement.num_nodes} of them, or lower "
        "parallel.num_nodes."
    )


def _too_few_workers(placement: GroupPlacement, head: NodeType, max_workers: int) -> str | None:
    """Return whether the limit of all types together is in the way."""
    needed = placement.num_nodes - head.may_hold(placement.bundle)
    if needed <= max_workers:
        return None
    return f"max_workers is {max_workers}, but {placement.model} needs {placement}. Raise it to {needed}."


def _nodes(
    placements: Sequence[GroupPlacement], head: NodeType, workers: Sequence[NodeType], max_workers: int
) -> list[NodeResources]:
    """Return every node that there can be; those of unknown resources hold all that is ever asked."""
    everything = {name: math.inf for placement in placements for name in placement.bundle}
    return [
        NodeResources(f"{type_.name} {number + 1}", everything if type_.amounts is None else type_.amounts)
        for type_ in (head, *workers)
        for number in range(min(type_.max_nodes, 1 if type_ is head else max_workers))
    ]


def _spelled(amounts: Mapping[str, float] | None, bundle: Mapping[str, float]) -> str:
    assert amounts is not None, "unknown amounts hold everything"
    return spell_amounts({name: amounts.get(name, 0.0) for name in bundle})


def _nodes_text(num_nodes: int) -> str:
    return f"{num_nodes} node{'' if num_nodes == 1 else 's'}"
