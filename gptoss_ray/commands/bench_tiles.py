"""`gptoss-ray bench tiles`: finds the fastest tiles of the matmuls on this GPU, for all later starts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gptoss_ray.commands.bench_gpu import Shape
from gptoss_ray.commands.bench_tables import note

if TYPE_CHECKING:
    from gptoss_ray.kernels.triton.tiles import Tile


def tiles(shape: Shape = "gpt-oss-20b") -> None:
    """Measure the tiles of a model's matmuls on this GPU, and keep the fastest for all later starts.

    Results do not depend on tiles. No release has run on a GPU yet.
    """
    import torch  # noqa: PLC0415

    from gptoss_ray.bench.synthetic_folder import shape_of  # noqa: PLC0415
    from gptoss_ray.kernels.backend import tile_table_path  # noqa: PLC0415

    path = tile_table_path()
    from gptoss_ray.kernels.triton.tile_table import TileTable  # noqa: PLC0415
    from gptoss_ray.kernels.triton.tuner import Tuner  # noqa: PLC0415

    def tell(key: str, tile: Tile) -> None:
        note(f"{key}: {tile}")

    known = TileTable.load(path)
    found = Tuner(shape_of(shape), torch.device("cuda")).tune(tell)
    TileTable({**known.tiles, **found.tiles}).save(path)
    note(f"kept in {path}")
