"""PackedExperts: the experts of one layer on this rank, side by side for C++."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass, field

from gptoss_ray.kernels.kernels import Expert, ExpertTable
from gptoss_ray.kernels.native.library import CMatrix
from gptoss_ray.kernels.native.packed import PackedMatrix, packed


@dataclass(frozen=True, eq=False)
class PackedExperts:
    """The experts of one layer on this rank: an ExpertTable.

    Attributes:
        experts: Kept alive, in order.
        hidden_size: H.
        gate_up: Address of an array of CMatrix, one per expert; so is `down`.
        down: Of the same length.
        num_rows: Address of as many int64, for `num_rows_per_expert`.
    """

    experts: tuple[Expert, ...]
    hidden_size: int
    gate_up: int
    down: int
    num_rows: int
    _arrays: tuple[ctypes.Array[CMatrix], ctypes.Array[CMatrix], ctypes.Array[ctypes.c_int64]] = field(
        repr=False
    )

    @property
    def num_rows_per_expert(self) -> list[int]:
        """How many rows chose each expert in the last step of its stack of layers."""
        return list(self._arrays[2])

    @classmethod
    def of(cls, experts: Sequence[Expert]) -> PackedExperts:
        """Make the arrays; ValueError if the experts are not all of one shape."""
        gate_up = [packed("gate_up", expert.gate_up) for expert in experts]
        down = [packed("down", expert.down) for expert in experts]
        hidden_size, intermediate_size = down[0].shape if down else (0, 0)
        wanted = (2 * intermediate_size, hidden_size), (hidden_size, intermediate_size)
        for index, pair in enumerate(zip(gate_up, down, strict=True)):
            shapes = pair[0].shape, pair[1].shape
            if shapes != wanted:
                raise ValueError(f"expert {index} has matrices {shapes}; all of a layer need {wanted}")
        arrays = (_array(gate_up), _array(down), (ctypes.c_int64 * len(down))())
        places = [ctypes.addressof(array) for array in arrays]
        return cls(tuple(experts), hidden_size, places[0], places[1], places[2], arrays)


def native_table(table: ExpertTable) -> PackedExperts:
    """Return the table as what it is; ValueError if other kernels made it."""
    if isinstance(table, PackedExperts):
        return table
    raise ValueError(f"table is a {type(table).__name__}; it must be one of NativeKernels.expert_table")


def _array(matrices: Sequence[PackedMatrix]) -> ctypes.Array[CMatrix]:
    array = (CMatrix * len(matrices))()
    for target, matrix in zip(array, matrices, strict=True):
        matrix.copy_to(target)
    return array
