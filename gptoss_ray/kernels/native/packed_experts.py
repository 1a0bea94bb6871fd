"""PackedExperts: the experts of one layer on this rank, side by side for C++."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass, field

from gptoss_ray.kernels.kernels import Expert
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
    """

    experts: tuple[Expert, ...]
    hidden_size: int
    gate_up: int
    down: int
    _arrays: tuple[object, object] = field(repr=False)

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
        arrays = (_array(gate_up), _array(down))
        places = [ctypes.addressof(array) for array in arrays]
        return cls(tuple(experts), hidden_size, places[0], places[1], arrays)


def _array(matrices: Sequence[PackedMatrix]) -> ctypes.Array[CMatrix]:
    array = (CMatrix * len(matrices))()
    for target, matrix in zip(array, matrices, strict=True):
        matrix.copy_to(target)
    return array
