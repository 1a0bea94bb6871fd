"""What `triton_compile` launches: kernels at the published models' shapes, on meta tensors."""

from __future__ import annotations

import torch

from gptoss_ray.kernels.kernels import Norm
from gptoss_ray.kernels.triton.norm import rms_norm

META = torch.device("meta")
HIDDEN = 2880


def values(*shape: int, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    """Return a tensor without memory."""
    return torch.empty(shape, dtype=dtype, device=META)


def norm() -> None:
    """The norm of a row of the published models."""
    rms_norm(values(3, HIDDEN), Norm(values(HIDDEN, dtype=torch.float32), 1e-5))
