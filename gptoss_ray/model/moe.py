"""One mixture-of-experts layer: gate, dispatch, experts, combine, sum at home."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gptoss_ray.checkpoint.reader import CheckpointReader
from gptoss_ray.kernels.reference import linear, pad_rows, weighted_slot_sum
from gptoss_ray.model.expert_shard import ExpertShard
from gptoss_ray.model.weights import read_weight
from gptoss_ray.parallel.token_dispatcher import TokenDispatcher


@dataclass(frozen=True)
class MoE:
    """Gate (float32, so that rounding does not choose experts) and local experts of a layer.

    Attributes:
        gate_weight: float32 [E, H]; with gate_bias float32 [E].
        experts_per_token: k.
        experts: The experts on this rank.
        dispatcher: Brings tokens to the experts' ranks and back.
    """

    gate_weight: Tensor
    gate_bias: Tensor
    experts_per_token: int
    experts: ExpertShard
    dispatcher: TokenDispatcher

    @classmethod
    def load(
        cls,
        reader: CheckpointReader,
        layer: int,
        device: torch.device,
        *,
        experts: ExpertShard,
        dispatcher: TokenDispatcher,
    ) -> MoE:
        """Read the gate of `layer`."""
        return cls(
            gate_weight=read_weight(reader, f"layers.{layer}.moe.gate.weight", torch.float32, device),
            gate_bias=read_weight(reader, f"layers.{layer}.moe.gate.bias", torch.float32, device),
            experts_per_token=reader.config.num_experts_per_token,
            experts=experts,
            dispatcher=dispatcher,
        )

    def forward(self, x: Tensor, num_tokens: int) -> Tensor:
        """Return Σ gate weight · expert(x) as float32; x [T padded, H], where padding is not dispatched."""
        gate_logits = linear(x.float(), self.gate_weight, self.gate_bias)[:num_tokens]
        chosen, expert_ids = gate_logits.topk(self.experts_per_token, dim=-1)
        grouped, handle = self.dispatcher.dispatch(x[:num_tokens], expert_ids)
        slots = self.dispatcher.combine(self.experts.forward(grouped), handle)
        return pad_rows(weighted_slot_sum(slots, chosen.softmax(dim=-1)))
