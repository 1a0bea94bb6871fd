"""One mixture-of-experts layer, of a rank alone or of one among others.

A rank that has all experts runs its layers in one call of the kernels (`Transformer.forward`).
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from gptoss_ray.kernels.kernels import Gate, Kernels, Norm
from gptoss_ray.model.expert_shard import ExpertShard
from gptoss_ray.model.weight_loader import WeightLoader
from gptoss_ray.parallel.token_dispatcher import TokenDispatcher


@dataclass(frozen=True)
class MoE:
    """Norm, gate, and experts.

    Attributes:
        norm: Before it.
        gate: Chooses experts.
        experts: Those on this rank; where it is alone, all of them in order of id.
    """

    norm: Norm
    gate: Gate
    experts: ExpertShard


@dataclass(frozen=True)
class DispatchedMoE(MoE):
    """Tokens travel to the ranks of their experts and back.

    Attributes:
        dispatcher: Brings them there.
    """

    dispatcher: TokenDispatcher

    def begin_step(self, max_num_tokens: int, is_token: Tensor | None) -> None:
        """Collective, as the dispatcher's."""
        self.dispatcher.begin_step(max_num_tokens, is_token)

    def forward(self, hidden: Tensor, kernels: Kernels) -> Tensor:
        """Return hidden + Σ gate weight · expert(norm(hidden)): [T, H] → [T, H].

        Gate, dispatch, experts, combine, sum at home.
        """
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
        return MoE(norm, gate, experts)
    return DispatchedMoE(norm, gate, experts, dispatcher)
