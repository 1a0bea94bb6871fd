"""ExpertShard: the experts of one layer that this rank holds.

MXFP4 weights are exact in bfloat16 and float32, so whether they are kept packed and dequantised at
every use, or materialised once at load, changes speed and memory but no bit of the result.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Protocol

import torch
from torch import Tensor

from gptoss_ray.checkpoint.mxfp4 import dequantize
from gptoss_ray.checkpoint.reader import CheckpointReader
from gptoss_ray.kernels.reference import TILE_ROWS, linear, swiglu
from gptoss_ray.parallel.token_dispatcher import GroupedRows


class ExpertMatrices(Protocol):
    """One matrix [N, K] per local expert."""

    def __getitem__(self, expert: int, /) -> Tensor:
        """Return the matrix of the local expert (index on this rank)."""


@dataclass(frozen=True)
class PackedMatrices:
    """MXFP4 matrices, dequantised at every use: blocks uint8 [E, N, K/32, 16], scales uint8 [E, N, K/32]."""

    blocks: Tensor
    scales: Tensor
    dtype: torch.dtype

    def __getitem__(self, expert: int, /) -> Tensor:
        """Return [N, K] of the local expert."""
        return dequantize(self.blocks[expert], self.scales[expert], self.dtype)


@dataclass(frozen=True)
class ExpertShard:
    """Weights of the local experts; rows of gate_up are all gates, then all ups (not interleaved).

    Attributes:
        gate_up: Matrices [2·I, H]; with gate_up_bias [E, 2·I].
        down: Matrices [H, I]; with down_bias [E, H].
        swiglu_alpha: Slope inside the sigmoid.
        swiglu_limit: Bound of gate and up.
    """

    gate_up: ExpertMatrices
    gate_up_bias: Tensor
    down: ExpertMatrices
    down_bias: Tensor
    swiglu_alpha: float
    swiglu_limit: float

    @classmethod
    def load(
        cls,
        reader: CheckpointReader,
        layer: int,
        expert_ids: Sequence[int],
        dtype: torch.dtype,
        device: torch.device,
        *,
        materialize: bool,
    ) -> ExpertShard:
        """Read only the experts `expert_ids` of `layer`; local expert i is expert_ids[i]."""

        def read(name: str) -> Tensor:
            runs = [reader.read(f"layers.{layer}.experts.{name}", run) for run in _runs(expert_ids)]
            tensor = torch.cat(runs).to(device)
            if name.startswith("gate_up."):  # rows alternate gate and up on disk
                tensor = torch.cat((tensor[:, 0::2], tensor[:, 1::2]), dim=1)
            return tensor

        def read_matrices(name: str) -> ExpertMatrices:
            if reader.has(f"layers.{layer}.experts.{name}.weight"):
                return read(f"{name}.weight").to(dtype)
            packed = PackedMatrices(read(f"{name}.blocks"), read(f"{name}.scales"), dtype)
            if not materialize:
                return packed
            return torch.stack([packed[expert] for expert in range(len(expert_ids))])

        return cls(
            gate_up=read_matrices("gate_up"),
            gate_up_bias=read("gate_up.bias").to(dtype),
            down=read_matrices("down"),
            down_bias=read("down.bias").to(dtype),
            swiglu_alpha=reader.config.swiglu_alpha,
            swiglu_limit=reader.config.swiglu_limit,
        )

    def with_experts(
        self, reader: CheckpointReader, layer: int, held_ids: Sequence[int], expert_ids: Sequence[int]
    ) -> ExpertShard:
        """Return the shard of other experts, in the same format; those held already are not read again.

        Args:
            reader: The checkpoint.
            layer: Of this shard.
            held_ids: Experts of this shard, in its order.
            expert_ids: Experts of the other, in its order.
        """
        missing = sorted(set(expert_ids).difference(held_ids))
        bias = self.down_bias
        materialize = not isinstance(self.gate_up, PackedMatrices)
        shards = [self]
        if missing:
            shards.append(self.load(reader, layer, missing, bias.dtype, bias.device, materialize=materialize))
        places = {expert: (0, index) for index, expert in enumerate(held_ids)}
        places |= {expert: (1, index) for index, expert in enumerate(missing)}
        slots = [places[expert] for expert in expert_ids]
        return replace(
            self,
            gate_up=_gather_matrices([shard.gate_up for shard in shards], slots),
            gate_up_bias=_gather([shard.gate_up_bias for shard in shards], slots),
            down=_gather_matrices([shard.down for shard in shards], slots),
            down_bias=_gather([shard.down_bias for shard in shards], slots),
        )

    def forward(self, grouped: GroupedRows) -> Tensor:
        """Return each row's expert output [N, H], rounded once to the dtype of the rows.

        Each expert's rows are padded to whole tiles of their own; experts without rows cost nothing.
        """
        num_rows = grouped.num_rows_per_expert
        num_padded = [-(-count // TILE_ROWS) * TILE_ROWS for count in num_rows]
        padded_rows = _padded_rows(num_rows, num_padded, grouped.rows.device)
        x = grouped.rows.new_zeros(sum(num_padded), grouped.rows.shape[1])
        x.index_copy_(0, padded_rows, grouped.rows)
        gate_up = _linear_by_expert(x, self.gate_up, self.gate_up_bias, num_padded)
        activated = swiglu(gate_up, alpha=self.swiglu_alpha, limit=self.swiglu_limit)
        down = _linear_by_expert(activated, self.down, self.down_bias, num_padded)
        return down.index_select(0, padded_rows)


def _gather(sources: Sequence[ExpertMatrices], slots: Sequence[tuple[int, int]]) -> Tensor:
    """Return one tensor [E, …] of the experts at `slots`: (source, index there)."""
    return torch.stack([sources[source][index] for source, index in slots])


def _gather_matrices(sources: Sequence[ExpertMatrices], slots: Sequence[tuple[int, int]]) -> ExpertMatrices:
    packed = [matrices for matrices in sources if isinstance(matrices, PackedMatrices)]
    if not packed:
        return _gather(sources, slots)
    blocks = _gather([matrices.blocks for matrices in packed], slots)
    scales = _gather([matrices.scales for matrices in packed], slots)
    return replace(packed[0], blocks=blocks, scales=scales)


def _padded_rows(num_rows: list[int], num_padded: list[int], device: torch.device) -> Tensor:
    """Return for every row its index once each expert's rows are padded from num_rows to num_padded."""
    paddings = [padded - count for padded, count in zip(num_padded, num_rows, strict=True)]
    shifts = torch.tensor(list(accumulate(paddings, initial=0))[:-1], device=device)
    rows = torch.arange(sum(num_rows), device=device)
    return rows + shifts.repeat_interleave(torch.tensor(num_rows, device=device))


def _linear_by_expert(x: Tensor, matrices: ExpertMatrices, biases: Tensor, num_rows: list[int]) -> Tensor:
    """Apply each expert's matrix to its run of rows of x [N, K] → [N, M]."""
    out = x.new_empty(x.shape[0], biases.shape[1])
    for expert, (rows, results) in enumerate(
        zip(x.split_with_sizes(num_rows), out.split_with_sizes(num_rows), strict=True)
    ):
        if num_rows[expert]:
            linear(rows, matrices[expert], biases[expert], out=results)
    return out


def _runs(expert_ids: Sequence[int]) -> Iterator[slice]:
    """Yield the longest runs of consecutive ids, each a contiguous range of bytes on disk."""
    start = 0
    for end in range(1, len(expert_ids) + 1):
        if end == len(expert_ids) or expert_ids[end] != expert_ids[end - 1] + 1:
            yield slice(expert_ids[start], expert_ids[end - 1] + 1)
            start = end
