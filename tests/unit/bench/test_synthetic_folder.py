from __future__ import annotations

import pytest

from gptoss_ray.bench.synthetic_folder import (
    check_free_space,
    checkpoint_bytes,
    default_cache,
    shape_of,
    synthetic_folder,
)
from gptoss_ray.checkpoint.model_config import ModelConfig
from gptoss_ray.errors import ConfigError


def test_a_checkpoint_is_written_once(tmp_path):
    written = []
    for _ in range(2):
        folder = synthetic_folder(
            "tiny", 2, cache=tmp_path, progress=lambda done, total: written.append(total)
        )
    assert folder == tmp_path / "tiny-2-layers"
    assert ModelConfig.from_folder(folder).num_layers == 2
    assert set(written) == {checkpoint_bytes(shape_of("tiny", 2))}
    files = [path.stat().st_size for path in folder.glob("*.safetensors")]
    assert 0 < sum(files) - checkpoint_bytes(shape_of("tiny", 2)) < 100_000


def test_what_a_stopped_run_has_left_is_replaced(tmp_path):
    folder = tmp_path / "tiny-4-layers"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(b"half")
    assert synthetic_folder("tiny", cache=tmp_path) == folder
    assert ModelConfig.from_folder(folder).num_layers == 4


def test_a_full_disk_is_refused_with_the_figures(tmp_path):
    with pytest.raises(ConfigError, match=r"needs 1000000000\.0 GB, but .* are free there"):
        check_free_space(tmp_path / "not" / "there", 10**18)


def test_an_unknown_shape_is_refused_with_those_there_are():
    with pytest.raises(ConfigError, match="shape is 'gpt-2'; choose from gpt-oss-20b, gpt-oss-120b, tiny"):
        shape_of("gpt-2")


def test_the_cache_is_where_the_user_keeps_caches(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_cache() == tmp_path / "gptoss-ray" / "bench"
