"""Tensors that a function must refuse."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor


def random(*shape: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    return torch.randn(*shape, dtype=torch.float32).to(dtype)


def wrong_tensors(tensor: Tensor) -> dict[str, Tensor]:
    """Of another dtype, shape or device."""
    other = torch.float64 if tensor.dtype != torch.float64 else torch.float32
    return {
        "dtype": tensor.to(other),
        "shape": torch.zeros(*tensor.shape[:-1], tensor.shape[-1] + 1, dtype=tensor.dtype),
        "dimensions": tensor.unsqueeze(0),
        "device": torch.empty(tensor.shape, dtype=tensor.dtype, device="meta"),
    }


def assert_each_wrong_tensor_is_refused(call: Callable[..., Any], arguments: dict[str, Tensor]) -> None:
    call(**arguments)
    for name, tensor in arguments.items():
        for what, wrong in wrong_tensors(tensor).items():
            with pytest.raises(ValueError, match=r"must be"):
                call(**(arguments | {name: wrong}))
                pytest.fail(f"{name} of another {what} was taken")
    call(**arguments)
