"""Packer: lays weights out in the formats of `packed.py`."""

from __future__ import annotations

from threading import Lock

import torch
from torch import Tensor

from gptoss_ray.kernels.kernels import Mxfp4, StoredMatrix
from gptoss_ray.kernels.native.arguments import contiguous, sizes
from gptoss_ray.kernels.native.context import NativeContext
from gptoss_ray.kernels.native.library import NativeLibrary
from gptoss_ray.kernels.native.packed import BLOCK, Format, empty_tensors


class Packer:
    """Packs on threads of its own, which start when first needed: others may compute meanwhile.

    Any thread may call it; one packs at a time.

    Args:
        library: What is built here.
        num_threads: That pack.
        dense_format: Of weights that are no MXFP4.
    """

    def __init__(self, library: NativeLibrary, num_threads: int, dense_format: Format) -> None:
        self._library = library
        self._num_threads = num_threads
        self._dense_format = dense_format
        self._lock = Lock()
        self._context: NativeContext | None = None
        self._is_closed = False

    def close(self) -> None:
        """End the threads; every later call is a ValueError."""
        with self._lock:
            self._is_closed = True
            if self._context is not None:
                self._context.close()

    def pack(self, weight: StoredMatrix, bias: Tensor | None) -> dict[str, Tensor]:
        """Return codes, scales where the format has them, and bias; ValueError where they do not fit."""
        with self._lock:
            if self._is_closed:
                raise ValueError("the native kernels are closed")
            if self._context is None:
                self._context = NativeContext(self._library, self._num_threads)
            if isinstance(weight, Tensor):
                tensors = _pack_values(self._context, weight, self._dense_format)
            else:
                tensors = _pack_mxfp4(self._context, weight)
        if bias is not None:
            bias = bias.to(torch.float32, copy=True)
            tensors["bias"] = contiguous("bias", bias, torch.float32, (weight.shape[0],))
        return tensors


def _pack_mxfp4(context: NativeContext, weight: Mxfp4) -> dict[str, Tensor]:
    n, num_blocks = sizes("scales", weight.scales, 2)
    blocks = contiguous("blocks", weight.blocks, torch.uint8, (n, num_blocks, BLOCK // 2))
    scales = contiguous("scales", weight.scales, torch.uint8, (n, num_blocks))
    k = BLOCK * num_blocks
    tensors = empty_tensors(Format.MXFP4, n, k)
    codes, packed_scales = tensors["codes"].data_ptr(), tensors["scales"].data_ptr()
    if context.functions.gr_pack_mxfp4(
        context.handle, blocks.data_ptr(), scales.data_ptr(), n, k, codes, packed_scales
    ):
        context.fail()
    return tensors


def _pack_values(context: NativeContext, weight: Tensor, weight_format: Format) -> dict[str, Tensor]:
    """Pack weights [N, K] of any float dtype, rounded to bfloat16 first."""
    n, k = sizes("weight", weight, 2)
    tensors = empty_tensors(weight_format, n, k)
    weight = contiguous("weight", weight.to(torch.bfloat16), torch.bfloat16, (n, k))
    codes = tensors["codes"].data_ptr()
    if weight_format is Format.BF16:
        error = context.functions.gr_pack_bf16(context.handle, weight.data_ptr(), n, k, codes)
    else:
        scales = tensors["scales"].data_ptr()
        error = context.functions.gr_pack_int8(context.handle, weight.data_ptr(), n, k, codes, scales)
    if error:
        context.fail()
    return tensors
