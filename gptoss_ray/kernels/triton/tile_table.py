"""TileTable: the tiles that were measured to be fastest on a kind of GPU, kept in a file.

No result depends on them (`tiles.py`), so ranks with different files may form a group.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from gptoss_ray.errors import ConfigError
from gptoss_ray.kernels.triton.tiles import FEW_ROWS, MOST_ROWS, Tile, expert_tile, linear_tile, rows_up_to

IN_PLACE = 1
"""Rows of a tile of experts whose rows are computed in their places."""


@dataclass(frozen=True)
class TileTable:
    """Tiles by kind of matmul, shape and rows.

    Attributes:
        tiles: By `linear_key` and `expert_key`; what is missing has a usual tile.
    """

    tiles: Mapping[str, Tile] = field(default_factory=dict)

    def linear(self, n: int, k: int, num_rows: int) -> Tile:
        """Return the tile of a dense matmul of so many rows by a weight [n, k]."""
        return self.tiles.get(linear_key(n, k, num_rows)) or linear_tile(num_rows)

    def experts(self, hidden: int, width: int, rows: int) -> Tile:
        """Return the tile of experts that takes `rows` rows, or `IN_PLACE` rows."""
        return self.tiles.get(expert_key(hidden, width, rows)) or expert_tile(max(rows, 16))

    @classmethod
    def load(cls, path: Path) -> TileTable:
        """Read a file that `save` wrote; without one, the table is empty.

        Raises:
            ConfigError: It holds something else.
        """
        try:
            entries = json.loads(path.read_text(encoding="utf-8"))
            return cls({key: Tile(**values) for key, values in entries.items()})
        except FileNotFoundError:
            return cls()
        except (ValueError, TypeError, AttributeError) as error:
            raise ConfigError(f"{path} is no table of tiles ({error}); delete it.") from error

    def save(self, path: Path) -> None:
        """Write it, whole or not at all."""
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(f".{os.getpid()}")
        entries = {key: asdict(tile) for key, tile in sorted(self.tiles.items())}
        temporary.write_text(json.dumps(entries, indent=1), encoding="utf-8")
        temporary.replace(path)


def linear_key(n: int, k: int, num_rows: int) -> str:
    """Return the name of a dense matmul in the table: its shape, and the tile's rows."""
    return f"linear {n}x{k} {rows_up_to(num_rows, FEW_ROWS) if num_rows <= FEW_ROWS else MOST_ROWS}"


def expert_key(hidden: int, width: int, rows: int) -> str:
    """Return the name of experts' matmuls in the table."""
    return f"experts {hidden}x{width} {rows}"


def table_path(gpu_name: str, triton_version: str) -> Path:
    """Return where the table of a kind of GPU is kept: in the user's cache folder."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    name = re.sub(r"[^A-Za-z0-9.]+", "-", f"{gpu_name} triton {triton_version}")
    return cache / "gptoss_ray" / "tiles" / f"{name}.json"
