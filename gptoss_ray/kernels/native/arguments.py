"""Checks of tensors before their addresses go to C++, cheap enough for every call."""

from __future__ import annotations

import torch
from torch import Tensor


def address(name: str, tensor: Tensor, dtype: torch.dtype, shape: tuple[int, ...]) -> int:
    """Return the address of a contiguous CPU tensor of this dtype and shape; ValueError if it is not one."""
    if tensor.dtype is dtype and tensor.shape == shape and tensor.is_cpu and tensor.is_contiguous():
        return tensor.data_ptr()
    raise refusal(name, tensor, dtype, shape)


def contiguous(name: str, tensor: Tensor, dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
    """Return a CPU tensor of this dtype and shape, copied where it is not contiguous; else ValueError."""
    if tensor.dtype is dtype and tensor.shape == shape and tensor.is_cpu:
        return tensor if tensor.is_contiguous() else tensor.contiguous()
    raise refusal(name, tensor, dtype, shape)


def activations(name: str, tensor: Tensor, width: int) -> Tensor:
    """Return rows bfloat16 [any, width], copied where they are not contiguous; else ValueError."""
    shape = tensor.shape
    if len(shape) == 2 and shape[1] == width and tensor.dtype is torch.bfloat16 and tensor.is_cpu:
        return tensor if tensor.is_contiguous() else tensor.contiguous()
    raise refusal(name, tensor, torch.bfloat16, ("rows", width))


def sizes(name: str, tensor: Tensor, num_dimensions: int) -> torch.Size:
    """Return the shape of a tensor of so many dimensions; else ValueError."""
    if len(tensor.shape) == num_dimensions:
        return tensor.shape
    raise ValueError(f"{name} is {list(tensor.shape)}; it must be of {num_dimensions} dimensions")


def refusal(name: str, tensor: Tensor, dtype: torch.dtype, shape: tuple[int | str, ...]) -> ValueError:
    """Return the error that says what `name` is and what it must be."""
    order = "contiguous" if tensor.is_contiguous() else "not contiguous"
    return ValueError(
        f"{name} is {_name(tensor.dtype)} {_dimensions(tensor.shape)} on {tensor.device}, {order}; "
        f"it must be {_name(dtype)} {_dimensions(shape)} on cpu, contiguous"
    )


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _dimensions(shape: tuple[int | str, ...]) -> str:
    return f"[{', '.join(map(str, shape))}]"
