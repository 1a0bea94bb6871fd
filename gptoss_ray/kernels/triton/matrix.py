"""TritonMatrix: weights laid out for the tensor cores of a GPU.

Values stay as they are, in bfloat16, or become int8 (`kernels/int8.py`), filled up with zeros to a whole
number of MXFP4 tiles. The scales of int8 change places: the two of an output for 64 inputs are one int32, the
lower half first, and those of all outputs lie side by side. Nothing smaller is fetched ahead.

MXFP4 keeps its 4 bits a value, but its codes change places: a tile of 64 outputs and 128 inputs is one piece
of memory, int16 [64, 32], and word w of an output holds the codes of inputs w, 32 + w, 64 + w and 96 + w,
their bits where `mxfp4.py` wants them. So each of a word's four codes has a scale of its own, and the four
scales of an output are one int32 too, lowest byte first.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from gptoss_ray.kernels import int8
from gptoss_ray.kernels.kernels import Matrix, Mxfp4

TILE_N, TILE_K = 64, 128
"""Outputs and inputs of a tile of MXFP4."""

MAX_SCALE = 128
"""Largest scale byte: the decoder's factor 2^(scale - 1) is a bfloat16 up to it."""

_WORDS = TILE_K // 4
# Outputs whose weights become int8 at once: of an unembedding all would take gigabytes in float32.
_QUANTIZED_OUTPUTS = 8192


@dataclass(frozen=True)
class TritonMatrix:
    """Weights [N, K] and a bias.

    Attributes:
        shape: (N, K).
        tensors: "weight" bfloat16 [N, K]; or int8 [N, K], with "scales" int32 [K/64, N]; or "codes" int16
            [N/64, K/128, 64, 32] and "scales" int32 [N/64, K/128, 64]. K, and N of MXFP4, up to a tile.
            Perhaps "bias" float32 [N].
        is_wide: Whether its results stay in float32.
    """

    shape: tuple[int, int]
    tensors: Mapping[str, Tensor]
    is_wide: bool = False

    @property
    def is_mxfp4(self) -> bool:
        """Whether it is kept in 4 bits."""
        return "codes" in self.tensors

    @property
    def is_int8(self) -> bool:
        """Whether it is kept in 8 bits."""
        return self.scales is not None and not self.is_mxfp4

    @property
    def scales(self) -> Tensor | None:
        """Of int8 or MXFP4."""
        return self.tensors.get("scales")

    @property
    def bias(self) -> Tensor | None:
        """float32 [N], or none."""
        return self.tensors.get("bias")


def triton_matrix(name: str, matrix: Matrix) -> TritonMatrix:
    """Return the matrix as what it is; ValueError if other kernels made it."""
    if isinstance(matrix, TritonMatrix):
        return matrix
    raise ValueError(f"{name} is a {type(matrix).__name__}; it must be one of TritonKernels.matrix")


def pack_values(weight: Tensor, device: torch.device) -> dict[str, Tensor]:
    """Lay values [N, K] out on `device`."""
    values = weight.to(device, torch.bfloat16, copy=True)
    return {"weight": pad(values, (0, -weight.shape[1] % TILE_K)).contiguous()}


def pack_int8(weight: Tensor, device: torch.device) -> dict[str, Tensor]:
    """Lay values [N, K] out on `device` in 8 bits; ValueError if one is not finite."""
    n, num_inputs = weight.shape[0], weight.shape[1] + -weight.shape[1] % TILE_K
    codes = torch.empty((n, num_inputs), dtype=torch.int8, device=device)
    scales = torch.empty((num_inputs // (2 * int8.BLOCK), n), dtype=torch.int32, device=device)
    for start in range(0, n, _QUANTIZED_OUTPUTS):
        outputs = slice(start, start + _QUANTIZED_OUTPUTS)
        values = pad(weight[outputs].to(device), (0, num_inputs - weight.shape[1]))
        codes[outputs], own_scales = int8.quantize(values)
        scales[:, outputs] = own_scales.view(torch.int32).T
    return {"weight": codes, "scales": scales}


def pack_mxfp4(weight: Mxfp4, device: torch.device) -> dict[str, Tensor]:
    """Lay MXFP4 out on `device`.

    Raises:
        ValueError: A scale is above 2 (which no weights of a network need), or is no number.
    """
    n, k = weight.shape
    blocks, scales = weight.blocks.to(device), weight.scales.to(device)
    if n and k and int(scales.max()) > MAX_SCALE:
        raise ValueError(f"an MXFP4 scale is {int(scales.max())}; these kernels take at most {MAX_SCALE}")
    codes = torch.stack((blocks & 0xF, blocks >> 4), dim=-1).view(n, k)
    codes = pad(codes, (0, -k % TILE_K, 0, -n % TILE_N))
    codes = codes.view(-1, TILE_N, codes.shape[1] // TILE_K, 4, _WORDS).transpose(1, 2)
    scales = pad(scales, (0, -scales.shape[1] % 4, 0, -n % TILE_N), value=MAX_SCALE - 1)
    scales = scales.contiguous().view(torch.int32).view(-1, TILE_N, scales.shape[1] // 4).transpose(1, 2)
    return {"codes": _words(codes), "scales": scales.contiguous()}


def _words(codes: Tensor) -> Tensor:
    """Return words int16 [..., 32] of codes uint8 [..., 4, 32], each bit in its place."""
    first, second, third, fourth = codes.to(torch.int32).unbind(-2)
    words = _in_place(first) | _in_place(second) >> 3 | _in_place(third) >> 6
    words |= (fourth & 8) << 8 | (fourth & 6) << 12 | (fourth & 1) << 10
    return words.to(torch.int16).contiguous()


def _in_place(codes: Tensor) -> Tensor:
    """Return codes as bfloat16 bits, 2^-126 times their value: sign at 15, exponent at 8, mantissa at 6."""
    return (codes & 8) << 12 | (codes & 7) << 6
