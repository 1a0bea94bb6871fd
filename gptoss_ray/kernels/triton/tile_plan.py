"""TilePlan: how the programs of a dense matmul share its work."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import triton
from torch import Tensor

from gptoss_ray.kernels.triton.matrix import TILE_K, TritonMatrix
from gptoss_ray.kernels.triton.tiles import BLOCK_K, FEW_ROWS, Tile, num_splits


@dataclass(frozen=True)
class TilePlan:
    """A launch of `linear.sum_of_tile` by a kernel around it.

    Attributes:
        grid: Tiles, and splits that go side by side.
        parts: Memory for sums of splits.
        constants: What `sum_of_tile` is compiled for.
        options: Of the launch.
    """

    grid: tuple[int, int]
    parts: Tensor
    constants: Mapping[str, int]
    options: Mapping[str, int]

    @classmethod
    def of(cls, x: Tensor, matrix: TritonMatrix, tile: Tile) -> TilePlan:
        """Plan x [T, K] @ W.T."""
        num_rows, (n, k) = len(x), matrix.shape
        splits = num_splits(n, k)
        num_tiles = triton.cdiv(n, tile.outputs) * triton.cdiv(num_rows, tile.rows)
        side_by_side = splits > 1 and num_rows <= FEW_ROWS
        num_parts = num_tiles * splits if side_by_side else 0
        constants = {
            "N": n,
            "K": k,
            "STRIDE": triton.cdiv(k, TILE_K) * TILE_K,
            "SPLITS": splits,
            "SIDE_BY_SIDE": side_by_side,
            "IS_INT8": matrix.is_int8,
            "BLOCK_N": tile.outputs,
            "BLOCK_M": tile.rows,
            "BLOCK_K": BLOCK_K,
        }
        return cls(
            grid=(num_tiles, splits if side_by_side else 1),
            parts=x.new_empty(num_parts * tile.outputs * tile.rows, dtype=torch.float32),
            constants=constants,
            options={
                "num_warps": tile.num_warps,
                "num_stages": tile.num_stages,
                "enable_fp_fusion": False,
            },
        )

    @property
    def num_results(self) -> int:
        """Counters of arrivals that it takes."""
        return self.grid[0] if self.grid[1] > 1 else 0
