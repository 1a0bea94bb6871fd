"""ExpertShard: the experts of one layer that this rank holds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gptoss_ray.kernels.kernels import Expert, ExpertTable, Kernels, Mxfp4, StoredMatrix, SwiGLU
from gptoss_ray.model.weight_loader import ReadMatrix, WeightLoader
from gptoss_ray.parallel.token_dispatcher import GroupedRows


@dataclass(frozen=True)
class ExpertShard:
    """The local experts.

    Attributes:
        experts: One object each, in the order of their slots.
        table: The same for the kernels.
        swiglu: Their activation.
    """

    experts: tuple[Expert, ...]
    table: ExpertTable
    swiglu: SwiGLU

    @classmethod
    def load(cls, loader: WeightLoader, layer: int, expert_ids: Sequence[int]) -> ExpertShard:
        """Read only the experts `expert_ids` of `layer`; local expert i is expert_ids[i]."""
        config = loader.reader.config
        swiglu = SwiGLU(config.swiglu_alpha, config.swiglu_limit)
        return cls.of([_load_expert(loader, layer, expert) for expert in expert_ids], swiglu, loader.kernels)

    @classmethod
    def of(cls, experts: Sequence[Expert], swiglu: SwiGLU, kernels: Kernels) -> ExpertShard:
        """Return the shard of these experts."""
        return cls(tuple(experts), kernels.expert_table(experts), swiglu)

    def with_experts(
        self, loader: WeightLoader, layer: int, held_ids: Sequence[int], expert_ids: Sequence[int]
    ) -> ExpertShard:
        """Return the shard of other experts; those held already are shared with it and not read again.

        Args:
            loader: Of the rest.
            layer: Of this shard.
            held_ids: Experts of this shard, in its order.
            expert_ids: Experts of the other, in its order.
        """
        held = dict(zip(held_ids, self.experts, strict=True))
        experts = [
            held[expert] if expert in held else _load_expert(loader, layer, expert) for expert in expert_ids
        ]
        return self.of(experts, self.swiglu, loader.kernels)

    def forward(self, grouped: GroupedRows, kernels: Kernels) -> Tensor:
        """Return each row's expert output [N, H], rounded once to the dtype of the rows."""
        return kernels.experts(grouped.rows, grouped.num_rows_per_expert, self.table, self.swiglu)


def _load_expert(loader: WeightLoader, layer: int, expert: int) -> Expert:
    config = loader.reader.config
    hidden, width = config.hidden_size, config.intermediate_size
    matrices = loader.matrices(
        f"layers.{layer}.experts.{expert}",
        {"gate_up": (2 * width, hidden), "down": (hidden, width)},
        {name: _reads_matrix(loader, layer, expert, name) for name in ("gate_up", "down")},
    )
    return Expert(**matrices)


def _reads_matrix(loader: WeightLoader, layer: int, expert: int, matrix: str) -> ReadMatrix:
    reader, prefix = loader.reader, f"layers.{layer}.experts.{matrix}"

    def read(part: str) -> Tensor:
        tensor = reader.read(f"{prefix}.{part}", slice(expert, expert + 1))[0]
        # On disk the rows of gate and up alternate.
        return torch.cat((tensor[0::2], tensor[1::2])) if matrix == "gate_up" else tensor

    def read_matrix() -> tuple[StoredMatrix, Tensor]:
        if reader.has(f"{prefix}.weight"):
            return read("weight"), read("bias")
        return Mxfp4(read("blocks"), read("scales")), read("bias")

    return read_matrix
