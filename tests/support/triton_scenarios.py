"""What `triton_compile` launches: kernels at the published models' shapes, on meta tensors."""

from __future__ import annotations

import torch

from gptoss_ray.kernels.kernels import Norm
from gptoss_ray.kernels.triton.last_arrival import ArrivalCounters
from gptoss_ray.kernels.triton.linear import Linear
from gptoss_ray.kernels.triton.matrix import TritonMatrix
from gptoss_ray.kernels.triton.norm import rms_norm

META = torch.device("meta")
HIDDEN = 2880


def values(*shape: int, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    """Return a tensor without memory."""
    return torch.empty(shape, dtype=dtype, device=META)


def norm() -> None:
    """The norm of a row of the published models."""
    rms_norm(values(3, HIDDEN), Norm(values(HIDDEN, dtype=torch.float32), 1e-5))


def dense(n: int, k: int, *, bias: bool = True, is_wide: bool = False) -> TritonMatrix:
    """Return a dense weight."""
    tensors = {"weight": values(n, k)} | ({"bias": values(n, dtype=torch.float32)} if bias else {})
    return TritonMatrix((n, k), tensors, is_wide)


def linear() -> None:
    """qkv, out and unembedding, of few rows and of many."""
    multiply = Linear(ArrivalCounters(META))
    for num_rows in (1, 2048):
        multiply(values(num_rows, HIDDEN), dense(5120, HIDDEN))
        multiply(values(num_rows, 4096), dense(HIDDEN, 4096), values(num_rows, HIDDEN))
        multiply(values(num_rows, HIDDEN), dense(201_088, HIDDEN, bias=False, is_wide=True))
