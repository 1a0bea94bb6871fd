"""The experts of one layer: two launches, few rows in place or many grouped by expert."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
from torch import Tensor

from gptoss_ray.kernels.kernels import SwiGLU
from gptoss_ray.kernels.triton.down import down_kernel
from gptoss_ray.kernels.triton.expert_table import TritonExperts
from gptoss_ray.kernels.triton.gate_up import gate_up_kernel
from gptoss_ray.kernels.triton.last_arrival import ArrivalCounters
from gptoss_ray.kernels.triton.routing import Routing
from gptoss_ray.kernels.triton.tile_table import IN_PLACE, TileTable
from gptoss_ray.kernels.triton.tiles import Tile, expert_splits


@dataclass(frozen=True)
class InPlace:
    """Every row is a tile of its own, with the expert that it has: nothing is sorted or read back.

    Attributes:
        expert_ids: int64 [R] in any shape.
    """

    expert_ids: Tensor

    @property
    def num_tiles(self) -> int:
        """R."""
        return self.expert_ids.numel()


class ExpertMatmuls:
    """On one device and stream.

    Args:
        counters: Shared with all that works on the same stream.
        tiles: What was measured to be fast; None: nothing.
    """

    def __init__(self, counters: ArrivalCounters, tiles: TileTable | None = None) -> None:
        self._counters, self._tiles = counters, tiles or TileTable()

    def __call__(
        self,
        x: Tensor,
        num_rows: int,
        table: TritonExperts,
        rows: InPlace | Routing,
        swiglu: SwiGLU,
        *,
        tile: Tile | None = None,
    ) -> Tensor:
        """Return down(swiglu(gate_up(x[row // s]))) of R > 0 rows [R, H], rounded after each of the three.

        Args:
            x: [R / s, H]: each input is met by s rows, which lie together.
            num_rows: R.
            table: Of the layer.
            rows: How programs find them.
            swiglu: Of the model.
            tile: Of as many rows as `rows` says; None: the fastest that is known.
        """
        if tile is None:
            tile_rows = IN_PLACE if isinstance(rows, InPlace) else rows.rows_per_tile
            tile = self._tiles.experts(table.hidden_size, table.intermediate_size, tile_rows)
        activated = x.new_empty((num_rows, table.intermediate_size))
        self._gate_up(x, activated, table, rows, swiglu, tile)
        out = x.new_empty((num_rows, table.hidden_size))
        self._down(activated, out, table, rows, tile)
        return out

    def _gate_up(
        self,
        x: Tensor,
        out: Tensor,
        table: TritonExperts,
        rows: InPlace | Routing,
        swiglu: SwiGLU,
        tile: Tile,
    ) -> None:
        width, hidden = table.intermediate_size, table.hidden_size
        launch = self._launch(rows, width, expert_splits(hidden), 2, tile, x)
        gate_up_kernel[launch.grid](
            x,
            table.addresses,
            launch.expert_ids,
            launch.tiles,
            launch.order,
            out,
            launch.parts,
            launch.counters,
            swiglu.alpha,
            swiglu.limit,
            HIDDEN=hidden,
            WIDTH=width,
            ROWS_PER_INPUT=len(out) // len(x),
            SPLITS=expert_splits(hidden),
            **launch.constants(table, tile),
        )

    def _down(
        self, x: Tensor, out: Tensor, table: TritonExperts, rows: InPlace | Routing, tile: Tile
    ) -> None:
        width, hidden = table.intermediate_size, table.hidden_size
        launch = self._launch(rows, hidden, expert_splits(width), 1, tile, x)
        down_kernel[launch.grid](
            x,
            table.addresses,
            launch.expert_ids,
            launch.tiles,
            launch.order,
            out,
            launch.parts,
            launch.counters,
            HIDDEN=hidden,
            WIDTH=width,
            SPLITS=expert_splits(width),
            **launch.constants(table, tile),
        )

    def _launch(
        self, rows: InPlace | Routing, num_outputs: int, splits: int, num_sums: int, tile: Tile, x: Tensor
    ) -> _Launch:
        num_output_tiles = triton.cdiv(num_outputs, tile.outputs)
        part_size = splits * num_sums * tile.outputs * tile.rows
        if isinstance(rows, InPlace):
            num_shared = rows.num_tiles * num_output_tiles if splits > 1 else 0
            grid, expert_ids = (rows.num_tiles, num_output_tiles, splits), rows.expert_ids
            tiles = order = None
        else:
            num_shared, expert_ids = 0, None
            grid, tiles, order = (rows.num_tiles, num_output_tiles, 1), rows.tiles, rows.order
        parts = x.new_empty(num_shared * part_size, dtype=torch.float32)
        return _Launch(grid, expert_ids, tiles, order, parts, self._counters.of(num_shared))


@dataclass(frozen=True)
class _Launch:
    """What both kernels are told of the rows."""

    grid: tuple[int, int, int]
    expert_ids: Tensor | None
    tiles: Tensor | None
    order: Tensor | None
    parts: Tensor
    counters: Tensor

    def constants(self, table: TritonExperts, tile: Tile) -> dict[str, int | bool]:
        """Return what is compiled in."""
        return {
            "IN_PLACE": self.expert_ids is not None,
            "HAS_ORDER": self.order is not None,
            "IS_MXFP4": table.is_mxfp4,
            "BLOCK_N": tile.outputs,
            "BLOCK_M": tile.rows,
            "num_warps": tile.num_warps,
            "num_stages": tile.num_stages,
            "enable_fp_fusion": False,
        }
