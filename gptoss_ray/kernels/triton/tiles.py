"""Tiles: how the work of a matmul is cut.

What decides bits depends on the weight's shape alone (law 1): K goes in blocks, runs of blocks are summed for
themselves, and the sums are added in order. All else is a matter of speed: a tile's outputs and rows, warps,
and whether the runs of a tile are summed by programs side by side or by one after the other. Outputs are the
M of the matrix instruction (64 for wgmma) and rows its N, so that few rows and many meet the same one.
"""

from __future__ import annotations

from dataclasses import dataclass

from gptoss_ray.kernels.triton.matrix import TILE_K

VERSION = 1
"""Part of the numerics fingerprint: raised whenever the numbers of splits or blocks of K change."""

BLOCK_K = 64
"""Inputs that a dense matmul multiplies at once."""

FEWEST_ROWS, FEW_ROWS, MOST_ROWS = 16, 64, 128
"""Rows of the smallest tile; of the largest whose split sums have programs side by side; of the largest."""

_WANTED_PROGRAMS = 240
_MAX_SPLITS, _EXPERT_SPLITS = 4, 3


@dataclass(frozen=True)
class Tile:
    """The work of one program.

    Attributes:
        outputs: Of the weight.
        rows: That it multiplies.
        num_warps: Of a program.
        num_stages: Blocks of weights on their way at once.
    """

    outputs: int
    rows: int
    num_warps: int
    num_stages: int


def num_splits(n: int, k: int) -> int:
    """Return into how many runs the sums of a dense weight [n, k] are split.

    As many as let 64 outputs a program keep a GPU busy with one row, up to 4.
    """
    wanted = min(_WANTED_PROGRAMS // -(-n // 64), _MAX_SPLITS)
    return max(1, min(wanted, -(-k // BLOCK_K) // 2))


def expert_splits(k: int) -> int:
    """Return into how many runs the sums of an expert's weights are split."""
    return max(1, min(_EXPERT_SPLITS, -(-k // TILE_K)))


def linear_tile(num_rows: int) -> Tile:
    """Return the tile of a dense matmul of so many rows, where none was measured to be faster."""
    if num_rows <= FEW_ROWS:
        return Tile(outputs=64, rows=rows_up_to(num_rows, FEW_ROWS), num_warps=4, num_stages=5)
    return Tile(outputs=128, rows=128, num_warps=8, num_stages=4)


def groups_rows(num_rows: int, num_experts: int) -> bool:
    """Whether so many rows of experts are grouped by expert, rather than each computed in its place.

    In place a weight is read anew for every row that wants it, from the L2 cache at best; few rows share one.
    """
    return num_rows > num_experts // 2


def rows_per_tile(num_rows: int, num_experts: int) -> int:
    """Return the rows of a tile of experts' matmuls, of so many rows for all of them together.

    No more than `FEW_ROWS`: the sums of gates and ups, and of the splits before, fill the registers.
    """
    return rows_up_to(-(-num_rows // num_experts), FEW_ROWS)


def expert_tile(rows: int) -> Tile:
    """Return the tile of experts' matmuls that takes so many rows, where none was measured to be faster."""
    return Tile(outputs=64, rows=rows, num_warps=4, num_stages=5)


def rows_up_to(num_rows: int, most: int) -> int:
    """Return the power of two from `FEWEST_ROWS` on that holds so many rows, up to `most`."""
    return min(max(FEWEST_ROWS, 1 << max(0, num_rows - 1).bit_length()), most)


def linear_candidates(rows: int) -> list[Tile]:
    """Return the tiles worth measuring for a dense matmul of up to `rows` rows (of more, if `MOST_ROWS`)."""
    shapes = [(64, 4), (128, 4), (128, 8)] if rows <= FEW_ROWS else [(64, 4), (128, 8), (256, 8)]
    return [Tile(outputs, rows, warps, stages) for outputs, warps in shapes for stages in (3, 4, 5, 6)]


def expert_candidates(rows: int) -> list[Tile]:
    """Return the tiles worth measuring for experts' matmuls by tiles of `rows` rows."""
    shapes = [(64, 4), (128, 8)]
    return [Tile(outputs, rows, warps, stages) for outputs, warps in shapes for stages in (3, 4, 5, 6)]
