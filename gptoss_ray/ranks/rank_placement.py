"""Where the ranks of a group go: a bundle of resources on each node, and what nodes lack for it. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from gptoss_ray.config import ServedModelConfig

_MAX_NAMED_NODES = 8


@dataclass(frozen=True)
class NodeResources:
    """A node by its address, with amounts of resources by Ray's names: `CPU` (threads), `GPU` (devices)."""

    address: str
    amounts: Mapping[str, float]


@dataclass(frozen=True)
class GroupPlacement:
    """What one group asks of a cluster.

    Attributes:
        model: The model's name, for messages.
        num_nodes: Nodes of the group, each with one bundle.
        num_ranks_per_node: Ranks that share a bundle; the replica sits in the first bundle and takes nothing.
        rank_amounts: Resources of one rank, by Ray's names.
    """

    model: str
    num_nodes: int
    num_ranks_per_node: int
    rank_amounts: Mapping[str, float]

    @classmethod
    def of(cls, config: ServedModelConfig) -> GroupPlacement:
        """Return the placement of a model's group: ranks take CPU threads, or a GPU each."""
        parallel = config.parallel
        is_cpu = parallel.device == "cpu"
        amounts = {"CPU": float(config.engine.num_threads)} if is_cpu else {"GPU": 1.0}
        return cls(config.name, parallel.num_nodes, parallel.num_ranks_per_node, amounts)

    @property
    def bundle(self) -> dict[str, float]:
        """Resources that the group takes on each of its nodes."""
        return {name: amount * self.num_ranks_per_node for name, amount in self.rank_amounts.items()}

    @property
    def bundles(self) -> list[dict[str, float]]:
        """The bundles of the placement group, node by node."""
        return [self.bundle for _ in range(self.num_nodes)]

    @property
    def strategy(self) -> Literal["STRICT_PACK", "STRICT_SPREAD"]:
        """Ray's placement strategy: two bundles never share a node."""
        return "STRICT_SPREAD" if self.num_nodes > 1 else "STRICT_PACK"

    def bundle_index(self, rank: int) -> int:
        """Return which bundle a rank goes into: neighbours in rank share a node."""
        return rank // self.num_ranks_per_node

    def __str__(self) -> str:
        where = "one node" if self.num_nodes == 1 else f"each of {self.num_nodes} nodes"
        ranks = "1 rank" if self.num_ranks_per_node == 1 else f"{self.num_ranks_per_node} ranks"
        return f"{spell_amounts(self.bundle)} on {where} ({ranks} of {spell_amounts(self.rank_amounts)} each)"


def find_shortfall(placements: Iterable[GroupPlacement], nodes: Sequence[NodeResources]) -> str | None:
    """Return what is missing on which node where the groups do not all fit, in one sentence; else None.

    The largest bundles are placed first, each on the fullest nodes that still hold it: with several models
    of different sizes a cleverer order may exist.
    """
    left = {index: dict(node.amounts) for index, node in enumerate(nodes)}
    for placement in sorted(placements, key=_weight, reverse=True):
        fitting = [index for index, amounts in left.items() if _holds(amounts, placement.bundle)]
        if len(fitting) < placement.num_nodes:
            return f"{placement.model} needs {placement}; {_have(nodes, left, placement)}."
        for index in sorted(fitting, key=lambda index: _sum_of(left[index], placement))[
            : placement.num_nodes
        ]:
            for name, amount in placement.bundle.items():
                left[index][name] -= amount
    return None


def _weight(placement: GroupPlacement) -> tuple[float, int]:
    return sum(placement.bundle.values()), placement.num_nodes


def _holds(amounts: Mapping[str, float], bundle: Mapping[str, float]) -> bool:
    return all(amounts.get(name, 0.0) >= amount for name, amount in bundle.items())


def _sum_of(amounts: Mapping[str, float], placement: GroupPlacement) -> float:
    return sum(amounts.get(name, 0.0) for name in placement.bundle)


def _have(
    nodes: Sequence[NodeResources], left: Mapping[int, Mapping[str, float]], placement: GroupPlacement
) -> str:
    """Say what the nodes have left of the resources that a placement asks for, the best ones first."""
    if not nodes:
        return "there is no node"
    best = sorted(left, key=lambda index: -_sum_of(left[index], placement))
    named = []
    for index in best[:_MAX_NAMED_NODES]:
        amounts = {name: left[index].get(name, 0.0) for name in placement.bundle}
        named.append(f"{nodes[index].address} has {spell_amounts(amounts)}")
    if len(best) > len(named):
        named.append(f"{len(best) - len(named)} other nodes have no more")
    return ", ".join(named)


def spell_amounts(amounts: Mapping[str, float]) -> str:
    """Return amounts of resources as a reader says them: `8 CPUs and 1 GPU`."""
    return " and ".join(f"{amount:g} {name}{'' if amount == 1 else 's'}" for name, amount in amounts.items())
