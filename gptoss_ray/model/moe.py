"""One mixture-of-experts layer, of a rank alone or of one among others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from gptoss_ray.kernels.kernels import Gate, Kernels, Norm
from gptoss_ray.model.expert_shard import ExpertShard
from gptoss_ray.model.weight_loader import WeightLoader
from gptoss_ray.parallel.token_dispatcher import TokenDispatcher


class MoE(Protocol):
    """Norm, gate, and the experts that are here."""

    @property
    def experts(self) -> ExpertShard:
        """Those on this rank."""

    def begin_step(self, max_num_tokens: int) -> None:
        """Prepare for a step in which no rank of the group has more than `max_num_tokens` tokens."""

    def forward(self, hidden: Tensor, kernels: Kernels) -> Tensor:
        """Return hidden + Σ gate weight · expert(norm(hidden)): [T, H] → [T, H]."""


@dataclass(frozen=True)
class LocalMoE:
    """All experts are on this rank, in order of id.

    Attributes:
        norm: Before it.
        gate: Chooses experts.
        experts: All of them.
    """

    norm: Norm
    gate: Gate
    experts: ExpertShard

    def begin_step(self, max_num_tokens: int) -> None:
        """There is nobody to prepare for."""

    def forward(self, hidden: Tensor, kernels: Kernels) -> Tensor:
        """See `MoE`."""
        return kernels.mixture(hidden, self.norm, self.gate, self.experts.table, self.experts.swiglu)


@dataclass(frozen=True)
class DispatchedMoE:
    """Tokens travel to the ranks of their experts and back.

    Attributes:
        norm: Before it.
        gate: Chooses experts.
        experts: The experts on this rank.
        dispatcher: Brings tokens to the experts' ranks and back.
    """

    norm: Norm
    gate: Gate
    experts: ExpertShard
    dispatcher: TokenDispatcher

    def begin_step(self, max_num_tokens: int) -> None:
        """Collective, as the dispatcher's."""
        self.dispatcher.begin_step(max_num_tokens)

    def forward(self, hidden: Tensor, kernels: Kernels) -> Tensor:
        """See `MoE`: gate, dispatch, experts, combine, sum at home."""
        normed, weights, expert_ids = kernels.gate(hidden, self.norm, self.gate)
        grouped, handle = self.dispatcher.dispatch(normed, expert_ids)
        slots = self.dispatcher.combine(self.experts.forward(grouped, kernels), handle)
        return kernels.combine(hidden, slots, weights)


def load_moe(
    loader: WeightLoader, layer: int, experts: ExpertShard, dispatcher: TokenDispatcher | None
) -> MoE:
    """Read norm and gate of `layer`; None: its experts are all here."""
    name = f"layers.{layer}.moe"
    norm = loader.norm(f"{name}.norm")
    gate = Gate(
        weight=loader.read(f"{name}.gate.weight"),
        bias=loader.read(f"{name}.gate.bias"),
        experts_per_token=loader.reader.config.num_experts_per_token,
    )
    if dispatcher is None:
        return LocalMoE(norm, gate, experts)
    return DispatchedMoE(norm, gate, experts, dispatcher)
