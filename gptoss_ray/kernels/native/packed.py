"""PackedMatrix: the weights of a linear map as the native kernels read them, in tiles of 16 rows.

`src/api.h` draws the layouts. All values of a tile's step lie side by side, so that one row of activations
streams the weights at the speed of memory, without shuffling or unpacking them first.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum

import torch
from torch import Tensor

from gptoss_ray.kernels.kernels import Matrix
from gptoss_ray.kernels.native.arguments import address
from gptoss_ray.kernels.native.library import Activations, CMatrix

# Raised whenever a layout changes: packed weights kept on disk are then packed again.
LAYOUT_VERSION = 1
ALIGNMENT = 64
BLOCK = 32
_TILE_ROWS = 16


class Format(IntEnum):
    """How weights are kept (enum gr_format)."""

    MXFP4 = 0
    BF16 = 1
    INT8 = 2


# Of codes and scales.
_DTYPES = {
    Format.MXFP4: (torch.uint8, torch.uint8),
    Format.BF16: (torch.bfloat16, None),
    Format.INT8: (torch.int8, torch.float16),
}
_FORMATS = {codes: weight_format for weight_format, (codes, _) in _DTYPES.items()}


def empty_tensors(weight_format: Format, n: int, k: int) -> dict[str, Tensor]:
    """Return memory for the codes and scales of a matrix [n, k]; ValueError where k does not fit."""
    _check_shape((n, k))
    codes, scales = _DTYPES[weight_format]
    tensors = {"codes": torch.empty(_codes_shape(weight_format, n, k), dtype=codes)}
    if scales is not None:
        tensors["scales"] = torch.empty(_scales_shape(n, k), dtype=scales)
    return tensors


@dataclass(frozen=True, eq=False)
class PackedMatrix:
    """Weights [N, K] and perhaps a bias, somewhere in memory that the tensors keep alive.

    Attributes:
        tensors: codes; scales, but of bfloat16; bias float32 [N], if there is one. They begin on 64 bytes.
        shape: (N, K).
        is_wide: Results are float32 rather than bfloat16.
        activations: What it multiplies; the memory is the same. INT8 goes with MXFP4 and INT8 weights.
        format: Of the codes.
        address: Of a CMatrix.
    """

    tensors: Mapping[str, Tensor]
    shape: tuple[int, int]
    is_wide: bool = False
    activations: Activations = Activations.BF16
    format: Format = field(init=False)
    address: int = field(init=False, repr=False)
    _c_matrix: CMatrix = field(init=False, repr=False)

    def __post_init__(self) -> None:
        c_matrix = _describe(self.tensors, self.shape)
        if self.activations is Activations.INT8 and c_matrix.format == Format.BF16:
            raise ValueError("activations are INT8 and weights BF16; such weights take BF16 activations")
        c_matrix.activations = self.activations
        object.__setattr__(self, "format", Format(c_matrix.format))
        object.__setattr__(self, "address", ctypes.addressof(c_matrix))
        object.__setattr__(self, "_c_matrix", c_matrix)

    @property
    def num_bytes(self) -> int:
        """Memory of weights and bias."""
        return sum(tensor.nbytes for tensor in self.tensors.values())

    def copy_to(self, target: CMatrix) -> None:
        """Fill in an element of an array of matrices, which must not outlive this one."""
        ctypes.memmove(ctypes.addressof(target), self.address, ctypes.sizeof(CMatrix))


def packed(name: str, matrix: Matrix) -> PackedMatrix:
    """Return the matrix as what it is; ValueError if other kernels packed it."""
    if isinstance(matrix, PackedMatrix):
        return matrix
    raise ValueError(f"{name} is a {type(matrix).__name__}; it must be a matrix of NativeKernels.matrix")


def _describe(tensors: Mapping[str, Tensor], shape: tuple[int, int]) -> CMatrix:
    """Return the structure that points into the tensors, after checking each of them."""
    _check_shape(shape)
    n, k = shape
    unknown = set(tensors) - {"codes", "scales", "bias"}
    if unknown or "codes" not in tensors:
        raise ValueError(f"the tensors are {sorted(tensors)}; they must be codes, scales and bias")
    weight_format = _FORMATS.get(tensors["codes"].dtype)
    if weight_format is None:
        raise ValueError(f"codes are {tensors['codes'].dtype}; they must be uint8, int8 or bfloat16")
    codes_dtype, scales_dtype = _DTYPES[weight_format]
    if ("scales" in tensors) != (scales_dtype is not None):
        raise ValueError(f"{weight_format.name} weights need {'no ' if scales_dtype is None else ''}scales")
    places = {"codes": _aligned("codes", tensors["codes"], codes_dtype, _codes_shape(weight_format, n, k))}
    if scales_dtype is not None:
        places["scales"] = _aligned("scales", tensors["scales"], scales_dtype, _scales_shape(n, k))
    if "bias" in tensors:
        places["bias"] = _aligned("bias", tensors["bias"], torch.float32, (n,))
    return CMatrix(format=weight_format, n=n, k=k, **places)


def _check_shape(shape: tuple[int, int]) -> None:
    n, k = shape
    if n < 1 or k < BLOCK or k % BLOCK:
        raise ValueError(f"a matrix is {[n, k]}; K must be a multiple of {BLOCK}, and N at least 1")


def _codes_shape(weight_format: Format, n: int, k: int) -> tuple[int, ...]:
    num_tiles = -(-n // _TILE_ROWS)
    if weight_format is Format.MXFP4:
        return num_tiles, k // BLOCK, 4, _TILE_ROWS, 4
    if weight_format is Format.BF16:
        return num_tiles, k // 2, _TILE_ROWS, 2
    return num_tiles, k // BLOCK, BLOCK // 2, _TILE_ROWS, 2


def _scales_shape(n: int, k: int) -> tuple[int, ...]:
    return -(-n // _TILE_ROWS), k // BLOCK, _TILE_ROWS


def _aligned(name: str, tensor: Tensor, dtype: torch.dtype, shape: tuple[int, ...]) -> int:
    place = address(name, tensor, dtype, shape)
    if place % ALIGNMENT:
        raise ValueError(f"{name} begin at address {place:#x}; they must begin on {ALIGNMENT} bytes")
    return place
