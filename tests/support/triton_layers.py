"""Random layers of a tiny network for both TritonKernels and ReferenceKernels."""

from __future__ import annotations

import torch

from gptoss_ray.checkpoint.mxfp4 import quantize
from gptoss_ray.kernels import int8
from gptoss_ray.kernels.kernels import Expert, Gate, Kernels, Mxfp4, Norm, StoredMatrix, SwiGLU

SWIGLU = SwiGLU(1.702, 7.0)


def random_matrix(n: int, k: int, *, is_mxfp4: bool) -> StoredMatrix:
    """Return weights whose products with rows of order one are of order one."""
    values = (torch.randn(n, k) / k**0.5).bfloat16()
    return Mxfp4(*quantize(values)) if is_mxfp4 else values


def packed_expert(kernels: Kernels, stored: tuple[tuple[StoredMatrix, torch.Tensor], ...]) -> Expert:
    """Return gate_up and down as these kernels take them."""
    matrices = [kernels.matrix(kernels.pack(weight, bias), _shape(weight)) for weight, bias in stored]
    return Expert(*matrices)


def random_experts(
    count: int, hidden: int, width: int, *, is_mxfp4: bool
) -> list[tuple[tuple[StoredMatrix, torch.Tensor], ...]]:
    """Return so many experts as they are stored."""
    return [
        (
            (random_matrix(2 * width, hidden, is_mxfp4=is_mxfp4), torch.randn(2 * width).bfloat16()),
            (random_matrix(hidden, width, is_mxfp4=is_mxfp4), torch.randn(hidden).bfloat16()),
        )
        for _ in range(count)
    ]


def random_norm(hidden: int) -> Norm:
    """Return a norm near one."""
    return Norm(torch.rand(hidden) + 0.5, 1e-5)


def random_gate(num_experts: int, hidden: int, num_chosen: int = 4) -> Gate:
    """Return a gate that tells experts apart."""
    return Gate(torch.randn(num_experts, hidden), torch.randn(num_experts), num_chosen)


def _shape(weight: StoredMatrix) -> tuple[int, int]:
    n, k = weight.shape
    return n, k


def int8_values(tensors: dict[str, torch.Tensor]) -> torch.Tensor:
    """Return the float32 values [N, K up to a tile] of what `pack_int8` returned."""
    return int8.dequantize(tensors["weight"], tensors["scales"].T.contiguous().view(torch.float16))
