"""One mixture-of-experts layer: gate, dispatch, experts, combine, sum at home."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from gptoss_ray.kernels.kernels import Gate, Kernels, Norm
from gptoss_ray.model.expert_shard import ExpertShard
from gptoss_ray.model.weight_loader import WeightLoader
from gptoss_ray.parallel.token_dispatcher import TokenDispatcher


@dataclass(frozen=True)
class MoE:
    """Gate and local experts of a layer.

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

    @classmethod
    def load(cls, loader: WeightLoader, layer: int, experts: ExpertShard, dispatcher: TokenDispatcher) -> MoE:
        """Read norm and gate of `layer`."""
        name = f"layers.{layer}.moe"
        gate = Gate(
            weight=loader.read(f"{name}.gate.weight"),
            bias=loader.read(f"{name}.gate.bias"),
            experts_per_token=loader.reader.config.num_experts_per_token,
        )
        return cls(loader.norm(f"{name}.norm"), gate, experts, dispatcher)

    def forward(self, hidden: Tensor, kernels: Kernels) -> Tensor:
        """Return hidden + Σ gate weight · expert(norm(hidden)): [T, H] → [T, H]."""
        normed, weights, expert_ids = kernels.gate(hidden, self.norm, self.gate)
        grouped, handle = self.dispatcher.dispatch(normed, expert_ids)
        slots = self.dispatcher.combine(self.experts.forward(grouped, kernels), handle)
        return kernels.combine(hidden, slots, weights)
