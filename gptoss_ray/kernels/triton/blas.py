"""Dense matmuls of many rows by cuBLAS: a mode that is opt-in, as a row's bits depend on its batch.

cuBLAS chooses a kernel, and with it the order of a row's sums, by the number of rows. Its product is rounded
to bfloat16; bias, residual and rotation follow in a launch of ours. With few rows the time goes into reading
the weight, and logits are not rounded: both stay with `linear.py`. Never run on a GPU.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from gptoss_ray.kernels.triton.matrix import TritonMatrix
from gptoss_ray.kernels.triton.tiles import FEW_ROWS

TILE_ROWS, TILE_OUTPUTS = 16, 64
"""Of the launch behind a product; `TILE_OUTPUTS` at least."""


def takes(matrix: TritonMatrix, num_rows: int) -> bool:
    """Whether cuBLAS multiplies so many rows by a matrix."""
    return num_rows > FEW_ROWS and not matrix.is_wide


def product(x: Tensor, matrix: TritonMatrix) -> Tensor:
    """Return x [T, K] @ W.T in the dtype of x, without the bias; weights in bfloat16."""
    return torch.mm(x, matrix.tensors["weight"][:, : matrix.shape[1]].t())


def launch_behind(matrix: TritonMatrix, num_rows: int, num_outputs: int) -> tuple[tuple[int], dict[str, Any]]:
    """Return grid and constants of a kernel that takes a product by tiles of `num_outputs` outputs."""
    num_tiles = triton.cdiv(matrix.shape[0], num_outputs) * triton.cdiv(num_rows, TILE_ROWS)
    constants = {"N": matrix.shape[0], "BLOCK_N": num_outputs, "BLOCK_M": TILE_ROWS}
    return (num_tiles,), constants | {"num_warps": 4, "enable_fp_fusion": False}


@triton.jit
def tile_of_product(product_ptr, num_rows, N: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_M: tl.constexpr):
    """Return outputs n and rows m of the program's tile, and their products: float32 [BLOCK_N, BLOCK_M]."""
    num_output_tiles: tl.constexpr = (N + BLOCK_N - 1) // BLOCK_N
    n = tl.program_id(0) % num_output_tiles * BLOCK_N + tl.arange(0, BLOCK_N)
    m = tl.program_id(0) // num_output_tiles * BLOCK_M + tl.arange(0, BLOCK_M)
    places = m.to(tl.int64)[None, :] * N + n[:, None]
    inside = (n < N)[:, None] & (m < num_rows)[None, :]
    return n, m, tl.load(product_ptr + places, mask=inside, other=0.0).to(tl.float32)
