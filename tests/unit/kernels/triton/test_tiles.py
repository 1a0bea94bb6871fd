from __future__ import annotations

import pytest
import torch
import triton

from gptoss_ray.checkpoint.synthetic import tiny_config
from gptoss_ray.errors import ConfigError
from gptoss_ray.kernels.triton.tile_table import IN_PLACE, TileTable, expert_key, linear_key, table_path
from gptoss_ray.kernels.triton.tiles import Tile, expert_splits, expert_tile, linear_tile, num_splits
from gptoss_ray.kernels.triton.tuner import Tuner, fastest

CPU = torch.device("cpu")


def test_sums_of_the_published_weights_are_split_so_that_one_row_keeps_a_gpu_busy():
    splits = [num_splits(*shape) for shape in ((5120, 2880), (2880, 4096), (201_088, 2880))]
    assert (splits, expert_splits(2880)) == ([3, 4, 1], 3)
    assert num_splits(64, 64) == expert_splits(64) == 1


def test_measured_tiles_are_kept_in_a_file_and_others_are_as_usual(tmp_path):
    few, experts = Tile(128, 16, 8, 3), Tile(64, 16, 4, 6)
    table = TileTable({linear_key(5120, 2880, 3): few, expert_key(2880, 2880, IN_PLACE): experts})
    path = tmp_path / "folder" / "tiles.json"
    assert TileTable.load(path) == TileTable()
    table.save(path)
    assert TileTable.load(path) == table
    assert table.linear(5120, 2880, 16) == few and table.linear(5120, 2880, 17) == linear_tile(17)
    assert table.experts(2880, 2880, IN_PLACE) == experts and table.experts(2880, 2880, 16) == expert_tile(16)


@pytest.mark.parametrize("text", ["no json", "[1]", '{"a": {"b": 1}}', '{"a": 1}'])
def test_a_file_of_something_else_is_refused_by_name(tmp_path, text):
    path = tmp_path / "tiles.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"tiles\.json is no table of tiles"):
        TileTable.load(path)


def test_each_kind_of_gpu_has_a_file_of_its_own(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    path = table_path("NVIDIA H200 / 141 GB", "3.7.1")
    assert path == tmp_path / "gptoss_ray" / "tiles" / "NVIDIA-H200-141-GB-triton-3.7.1.json"


def test_the_fastest_tile_is_taken_of_those_that_fit():
    tiles = [Tile(64, 16, 4, stages) for stages in (3, 4, 5)]

    def measure(run):
        return run()

    def run(tile):
        if tile.num_stages == 5:
            raise triton.runtime.errors.OutOfResources(300_000, 232_448, "shared memory")
        return {3: 2.0, 4: 1.0}[tile.num_stages]

    assert fastest(tiles, run, measure) == tiles[1]


def test_every_matmul_of_a_model_is_measured_on_data_that_runs():
    model = tiny_config(num_experts=4, num_experts_per_token=2, vocab_size=64)
    calls = []

    def measure(run):
        if len(calls) % 12 == 0:  # the interpreter is slow
            run()
        calls.append(run)
        return float(len(calls))

    noted = []
    table = Tuner(model, CPU, measure).tune(lambda key, tile: noted.append(key))
    assert noted == list(table.tiles) and len(noted) == 3 * 4 + 4
    assert all(table.experts(64, 64, rows).rows == rows for rows in (16, 32, 64))
    for num_rows in (1, 20, 64, 500):
        assert table.linear(64, 128, num_rows) == table.tiles[linear_key(64, 128, num_rows)]
