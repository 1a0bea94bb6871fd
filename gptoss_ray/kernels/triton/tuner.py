"""Tuner: measures the tiles of a model's matmuls on this GPU. Never run on a GPU."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
import triton
from torch import Tensor

from gptoss_ray.checkpoint.model_config import ModelConfig
from gptoss_ray.kernels.kernels import Expert, SwiGLU
from gptoss_ray.kernels.triton.expert_table import TritonExperts
from gptoss_ray.kernels.triton.experts import ExpertMatmuls, InPlace
from gptoss_ray.kernels.triton.last_arrival import ArrivalCounters
from gptoss_ray.kernels.triton.linear import Linear
from gptoss_ray.kernels.triton.matrix import TILE_K, TILE_N, TritonMatrix
from gptoss_ray.kernels.triton.routing import route
from gptoss_ray.kernels.triton.tile_table import IN_PLACE, TileTable, expert_key, linear_key
from gptoss_ray.kernels.triton.tiles import FEWEST_ROWS, Tile, expert_candidates, linear_candidates

_LINEAR_ROWS = (1, 32, 64, 1024)
_EXPERT_TILE_ROWS = (16, 32, 64)

Measure = Callable[[Callable[[], object]], float]
"""Returns how long a call takes."""


def fastest(candidates: Sequence[Tile], run: Callable[[Tile], object], measure: Measure) -> Tile:
    """Return the tile with which `run` is fastest, of those that this GPU has room for."""
    times = {}
    for tile in candidates:
        try:
            times[tile] = measure(partial(run, tile))
        except triton.runtime.errors.OutOfResources:
            continue
    return min(times, key=lambda tile: times[tile])


class Tuner:
    """Measures on random weights of a model's shapes, made on the device.

    Args:
        model: Whose shapes.
        device: A GPU.
        measure: For tests; None: Triton's benchmark, the median.
    """

    def __init__(self, model: ModelConfig, device: torch.device, measure: Measure | None = None) -> None:
        self._model, self._device = model, device
        self._measure: Measure = measure or triton.testing.do_bench
        counters = ArrivalCounters(device)
        self._linear, self._experts = Linear(counters), ExpertMatmuls(counters)

    def tune(self, note: Callable[[str, Tile], None]) -> TileTable:
        """Return the fastest tiles of all shapes; `note` is told of each as it is found."""
        tiles: dict[str, Tile] = {}

        def keep(key: str, tile: Tile) -> None:
            tiles[key] = tile
            note(key, tile)

        for n, k in self._dense_shapes():
            weight = TritonMatrix((n, k), {"weight": self._values(n, -(-k // TILE_K) * TILE_K)})
            for num_rows in _LINEAR_ROWS:
                keep(linear_key(n, k, num_rows), self._fastest_linear(weight, num_rows))
        table = self._expert_table()
        hidden, width = table.hidden_size, table.intermediate_size
        for rows in (IN_PLACE, *_EXPERT_TILE_ROWS):
            keep(expert_key(hidden, width, rows), self._fastest_experts(table, rows))
        return TileTable(tiles)

    def _dense_shapes(self) -> list[tuple[int, int]]:
        model = self._model
        query_width = model.num_attention_heads * model.head_dim
        qkv_width = query_width + 2 * model.num_key_value_heads * model.head_dim
        hidden = model.hidden_size
        return [(qkv_width, hidden), (hidden, query_width), (model.vocab_size, hidden)]

    def _fastest_linear(self, weight: TritonMatrix, num_rows: int) -> Tile:
        x = self._values(num_rows, weight.shape[1])
        rows = int(linear_key(*weight.shape, num_rows).rsplit(maxsplit=1)[1])
        return fastest(
            linear_candidates(rows), lambda tile: self._linear(x, weight, tile=tile), self._measure
        )

    def _fastest_experts(self, table: TritonExperts, rows: int) -> Tile:
        chosen, count = self._model.num_experts_per_token, len(table)
        num_tokens = 1 if rows == IN_PLACE else max(1, rows * count // chosen)
        num_rows = num_tokens * chosen
        x = self._values(num_tokens, table.hidden_size)
        ids = torch.arange(num_rows, device=self._device) % count
        ranks = (torch.arange(num_rows, device=self._device) // count).int()
        counts = ids.bincount(minlength=count).int()
        tile_rows = max(rows, FEWEST_ROWS)
        places = InPlace(ids) if rows == IN_PLACE else route(counts, num_rows, tile_rows, ids, ranks)
        swiglu = SwiGLU(self._model.swiglu_alpha, self._model.swiglu_limit)
        return fastest(
            expert_candidates(tile_rows),
            lambda tile: self._experts(x, num_rows, table, places, swiglu, tile=tile),
            self._measure,
        )

    def _expert_table(self) -> TritonExperts:
        hidden, width = self._model.hidden_size, self._model.intermediate_size
        experts = [
            Expert(self._mxfp4(2 * width, hidden), self._mxfp4(hidden, width))
            for _ in range(self._model.num_experts)
        ]
        return TritonExperts.of(experts, self._device)

    def _mxfp4(self, n: int, k: int) -> TritonMatrix:
        tiles = (-(-n // TILE_N), -(-k // TILE_K))
        codes = torch.randint(-(1 << 15), 1 << 15, (*tiles, TILE_N, TILE_K // 4), device=self._device)
        scales = torch.full((*tiles, TILE_N), 0x78787878, dtype=torch.int32, device=self._device)
        bias = torch.zeros(n, dtype=torch.float32, device=self._device)
        return TritonMatrix((n, k), {"codes": codes.to(torch.int16), "scales": scales, "bias": bias})

    def _values(self, *shape: int) -> Tensor:
        return torch.randn(shape, dtype=torch.bfloat16, device=self._device)
