"""Reading a weight into memory of its own, in the dtype it is used in."""

from __future__ import annotations

import torch
from torch import Tensor

from gptoss_ray.checkpoint.reader import CheckpointReader


def read_weight(reader: CheckpointReader, name: str, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return a copy of the tensor `name`: the file's mapping is only 8-byte aligned and may vanish."""
    return reader.read(name).to(device, dtype, copy=True)
