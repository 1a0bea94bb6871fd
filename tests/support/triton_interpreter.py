"""Triton's interpreter on CPU tensors, with what it lacks: bfloat16, inline assembly, a tensor core's sums.

The interpreter holds bfloat16 as uint16 and multiplies its bits, and rounds to 8-bit floats without
carrying and reads their NaN as a number. And its dot is numpy's, whose order of additions depends on the
shape of a tile; a tensor core adds 16 products to an element at a time, whatever the tile. All are put right
here, so that what a row gets can be compared bit by bit across batch sizes: a test then shows that the
*kernel* keeps a row's order; that the instruction does, only a GPU can show.
"""

from __future__ import annotations

import numpy as np
import torch

from tests.support.bfloat16 import rounded, widened
from tests.support.ptx import run_ptx

_K = 16


class Results:
    """Of an operation that has several."""

    def __init__(self, handles):
        self._handles = handles

    def get_result(self, index):
        """One of them."""
        return self._handles[index]


def improve_interpreter() -> None:
    """Patch the interpreter of this process; idempotent."""
    import triton.language as tl
    from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

    if getattr(InterpreterBuilder, "is_improved", False):
        return
    plain_binary_op, plain_cast = InterpreterBuilder.binary_op, InterpreterBuilder.cast_impl
    plain_fp_to_fp = InterpreterBuilder.create_fp_to_fp

    def is_bf16(handle):
        return handle.dtype.scalar == tl.bfloat16 and handle.data.dtype == np.uint16

    def wide(handle):
        return widened(handle.data) if is_bf16(handle) else handle.data

    def binary_op(self, lhs, rhs, op):
        if not is_bf16(lhs):
            return plain_binary_op(self, lhs, rhs, op)
        result = op(wide(lhs), wide(rhs))
        if result.dtype == bool:
            return TensorHandle(result, tl.int1)
        return TensorHandle(rounded(result), tl.bfloat16)

    def cast_impl(self, src, dst_type):
        if src.dtype.scalar == tl.float32 and dst_type.scalar == tl.bfloat16:
            return TensorHandle(rounded(src.data), tl.bfloat16)
        if is_bf16(src) and dst_type.scalar != tl.bfloat16:
            wide_src = TensorHandle(widened(src.data), tl.float32)
            return wide_src if dst_type.scalar == tl.float32 else plain_cast(self, wide_src, dst_type)
        return plain_cast(self, src, dst_type)

    def create_fp_to_fp(self, src, dst_type, rounding_mode):
        if src.dtype.scalar == tl.float8e4nv:
            values = torch.from_numpy(src.data).view(torch.float8_e4m3fn).float().numpy()
            return cast_impl(self, TensorHandle(values, tl.float32), dst_type)
        if dst_type.scalar != tl.float8e4nv:
            return plain_fp_to_fp(self, src, dst_type, rounding_mode)
        narrow = torch.from_numpy(wide(src).astype(np.float32)).to(torch.float8_e4m3fn)
        return TensorHandle(narrow.view(torch.uint8).numpy(), tl.float8e4nv)

    def create_dot(self, a, b, d, input_precision, max_num_imprecise_acc):
        left, right = wide(a).astype(np.float64), wide(b).astype(np.float64)
        total = d.data.astype(np.float32)
        for k in range(0, left.shape[-1], _K):
            product = left[..., k : k + _K] @ right[..., k : k + _K, :]
            total = (total + product).astype(np.float32)
        return TensorHandle(total, d.dtype.scalar)

    def create_inline_asm(self, text, constraints, values, types, is_pure, pack):
        assert pack == 2 and all(value.data.itemsize == 2 for value in values), "two to a register"
        registers = [np.ascontiguousarray(value.data).view(np.uint32) for value in values]
        outputs = run_ptx(text, registers, len(types))
        return Results([TensorHandle(out.view(np.uint16), tl.bfloat16) for out in outputs])

    InterpreterBuilder.create_inline_asm = create_inline_asm
    InterpreterBuilder.binary_op = binary_op
    InterpreterBuilder.cast_impl = cast_impl
    InterpreterBuilder.create_fp_to_fp = create_fp_to_fp
    InterpreterBuilder.create_dot = create_dot
    InterpreterBuilder.is_improved = True
