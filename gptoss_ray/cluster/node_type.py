"""NodeType: nodes of one kind that a cluster may have, and where its file says so."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class NodeType:
    """Nodes of one kind.

    Attributes:
        name: By which the file knows it.
        amounts: What a node holds, by Ray's names; None where only the started node knows.
        max_nodes: So many there can be.
        amounts_field: What to change in the file for nodes that hold more.
        count_field: What to change for more nodes.
    """

    name: str
    amounts: Mapping[str, float] | None
    max_nodes: int
    amounts_field: str
    count_field: str

    def may_hold(self, bundle: Mapping[str, float]) -> bool:
        """Whether an empty node has room for a bundle, as far as is known."""
        amounts = self.amounts
        return amounts is None or all(amounts.get(name, 0.0) >= amount for name, amount in bundle.items())
