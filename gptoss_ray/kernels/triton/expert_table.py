"""TritonExperts: where the matrices of a layer's experts lie, as the device reads it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gptoss_ray.kernels.kernels import Expert, ExpertTable
from gptoss_ray.kernels.triton.matrix import TritonMatrix, triton_matrix

ADDRESSES_PER_MATRIX = 3
"""Values or codes, scales (0 where there are none), bias."""


@dataclass(frozen=True, eq=False)
class TritonExperts:
    """The experts of one layer on this rank: an ExpertTable.

    Attributes:
        experts: Kept alive, in order.
        hidden_size: H.
        intermediate_size: I.
        is_mxfp4: Whether all are in 4 bits; else all are values.
        addresses: int64 [E, 2, 3] on the device, of gate_up and down.
    """

    experts: tuple[Expert, ...]
    hidden_size: int
    intermediate_size: int
    is_mxfp4: bool
    addresses: Tensor

    @classmethod
    def of(cls, experts: Sequence[Expert], device: torch.device) -> TritonExperts:
        """Note the addresses; ValueError if the experts are not all of one shape and format."""
        pairs = [
            (triton_matrix("gate_up", each.gate_up), triton_matrix("down", each.down)) for each in experts
        ]
        hidden, width = pairs[0][1].shape if pairs else (0, 0)
        is_mxfp4 = bool(pairs) and pairs[0][0].is_mxfp4
        wanted = [((2 * width, hidden), is_mxfp4), ((hidden, width), is_mxfp4)]
        for index, pair in enumerate(pairs):
            found = [(matrix.shape, matrix.is_mxfp4) for matrix in pair]
            if found != wanted:
                raise ValueError(f"expert {index} has matrices {found}; all of a layer need {wanted}")
        rows = [[_addresses(matrix) for matrix in pair] for pair in pairs]
        addresses = torch.tensor(rows, dtype=torch.int64).view(-1, 2, ADDRESSES_PER_MATRIX)
        return cls(tuple(experts), hidden, width, is_mxfp4, addresses.to(device))

    def __len__(self) -> int:
        return len(self.experts)


def triton_experts(table: ExpertTable) -> TritonExperts:
    """Return the table as what it is; ValueError if other kernels made it."""
    if isinstance(table, TritonExperts):
        return table
    raise ValueError(f"table is a {type(table).__name__}; it must be one of TritonKernels.expert_table")


def _addresses(matrix: TritonMatrix) -> list[int]:
    tensors = matrix.tensors
    if matrix.is_int8:
        raise ValueError("an expert's matrix is in int8; it must be in MXFP4 or bfloat16")
    if "bias" not in tensors:
        raise ValueError("an expert's matrix has no bias")
    if matrix.is_mxfp4:
        return [tensors[name].data_ptr() for name in ("codes", "scales", "bias")]
    return [tensors["weight"].data_ptr(), 0, tensors["bias"].data_ptr()]
