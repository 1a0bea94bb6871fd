"""All-to-all of a layer: how many bytes leave a rank, and how long they take.

Experts are taken to be chosen evenly and independently of each other from token to token, and placed
contiguously. R ranks, E experts, k experts a token, d hidden size.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from gptoss_ray.checkpoint.model_config import ModelConfig
from gptoss_ray.planner.buffers import row_bytes
from gptoss_ray.planner.hardware import Accelerator, Link

# Share of a link's bandwidth that a large exchange reaches.
LINK_EFFICIENCY = 0.7
# Padded: rows out, rows back. Exact: how many rows, then rows out, rows back.
_NUM_COLLECTIVES = {"local": 0, "padded": 2, "exact": 3}
_ITEMSIZE = 2


@dataclass(frozen=True)
class Wiring:
    """How the ranks of a group are connected.

    Attributes:
        num_ranks: R.
        num_ranks_per_node: Of this group.
        inside: Link within a node.
        across: Link between nodes.
    """

    num_ranks: int
    num_ranks_per_node: int
    inside: Link
    across: Link

    @classmethod
    def of(cls, accelerator: Accelerator, network: Link, num_ranks: int, node_size: int) -> Wiring:
        """Wire `num_ranks` ranks on nodes of `node_size`."""
        return cls(num_ranks, min(num_ranks, node_size), accelerator.link, network)

    @property
    def share_across(self) -> float:
        """Share of a rank's peers that are on other nodes."""
        if self.num_ranks == 1:
            return 0.0
        return (self.num_ranks - self.num_ranks_per_node) / (self.num_ranks - 1)

    def exchange_s(self, num_bytes: float, num_collectives: int) -> float:
        """Return seconds in which each rank sends `num_bytes`, in even parts to all peers.

        Links of different kinds work at the same time; each collective waits for the slower kind.
        """
        if self.num_ranks == 1:
            return 0.0
        inside_s = _transfer_s(self.inside, (1 - self.share_across) * num_bytes, self.num_ranks_per_node)
        across_s = _transfer_s(self.across, self.share_across * num_bytes, self.num_ranks_per_node)
        spans_nodes = self.num_ranks > self.num_ranks_per_node
        latency_s = self.across.latency_s if spans_nodes else self.inside.latency_s
        return max(inside_s, across_s) + num_collectives * latency_s


@dataclass(frozen=True)
class LayerTraffic:
    """What one rank sends in one layer.

    Attributes:
        mode: "padded" or "exact", as the dispatcher chooses; "local" where a rank is alone.
        dispatch_bytes: Rows to the experts.
        combine_bytes: Results back.
    """

    mode: str
    dispatch_bytes: float
    combine_bytes: float

    @property
    def num_bytes(self) -> float:
        """Both ways."""
        return self.dispatch_bytes + self.combine_bytes

    @property
    def num_collectives(self) -> int:
        """Collectives that the mode takes."""
        return _NUM_COLLECTIVES[self.mode]


def layer_traffic(model: ModelConfig, num_ranks: int, num_tokens: int, max_padded_bytes: int) -> LayerTraffic:
    """Return what a rank with `num_tokens` tokens sends in one layer when all ranks have as many."""
    if num_ranks == 1:
        return LayerTraffic("local", 0.0, 0.0)
    result_bytes = num_tokens * model.num_experts_per_token * model.hidden_size * _ITEMSIZE
    if num_ranks * result_bytes <= max_padded_bytes:
        peers = num_ranks - 1
        row = row_bytes(model, _ITEMSIZE)
        return LayerTraffic("padded", peers * num_tokens * row, float(peers * result_bytes))
    dispatch, combine = exact_bytes_per_token(model, num_ranks)
    return LayerTraffic("exact", num_tokens * dispatch, num_tokens * combine)


def exact_bytes_per_token(model: ModelConfig, num_ranks: int) -> tuple[float, float]:
    """Return the expected bytes of one token and layer, (dispatched, combined), in exact mode.

    A token travels once to each distinct remote rank of its experts; each remote expert's result travels.
    """
    remote_slots = model.num_experts_per_token * (num_ranks - 1) / num_ranks
    dispatched = expected_remote_ranks(model, num_ranks) * row_bytes(model, _ITEMSIZE)
    return dispatched, remote_slots * model.hidden_size * _ITEMSIZE


def expected_remote_ranks(model: ModelConfig, num_ranks: int) -> float:
    """Return how many distinct other ranks a token's k distinct experts lie on, in the mean.

    A rank with e experts is missed with probability C(E - e, k) / C(E, k); homes are spread evenly.
    """
    experts, chosen = model.num_experts, model.num_experts_per_token
    smaller, num_larger = divmod(experts, num_ranks)
    shares = [smaller + 1] * num_larger + [smaller] * (num_ranks - num_larger)
    missed = sum(math.comb(experts - num_local, chosen) for num_local in shares) / math.comb(experts, chosen)
    return (num_ranks - missed) * (num_ranks - 1) / num_ranks


def _transfer_s(link: Link, num_bytes: float, num_ranks_per_node: int) -> float:
    sharers = num_ranks_per_node if link.is_shared_by_node else 1
    return num_bytes * sharers / (LINK_EFFICIENCY * link.bytes_per_s)
