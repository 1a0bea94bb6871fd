from __future__ import annotations

import os
import shutil

import pytest

from gptoss_ray.checkpoint.reader import CheckpointReader
from gptoss_ray.checkpoint.synthetic import write_checkpoint
from gptoss_ray.errors import CheckpointError


def fingerprint(folder):
    return CheckpointReader.open(folder).fingerprint()


def test_a_moved_checkpoint_is_the_same(folder, tmp_path):
    expected = fingerprint(folder)
    assert fingerprint(folder) == expected
    moved = tmp_path / "moved"
    shutil.copytree(folder, moved, copy_function=shutil.copy2)
    assert fingerprint(moved) == expected


def test_other_weights_of_the_same_shape_sizes_and_times_are_another_checkpoint(folder, config, tmp_path):
    other = tmp_path / "other"
    write_checkpoint(other, config, seed=2, max_shard_bytes=200_000)
    for path in folder.glob("*.safetensors"):
        twin = other / path.name
        assert twin.stat().st_size == path.stat().st_size
        os.utime(twin, ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns))
    assert fingerprint(other) != fingerprint(folder)


def test_a_change_anywhere_in_a_small_tensor_is_seen_at_an_unchanged_time(folder):
    expected = fingerprint(folder)
    path = min(folder.glob("*.safetensors"))
    times = (path.stat().st_atime_ns, path.stat().st_mtime_ns)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=times)
    assert fingerprint(folder) != expected


def test_a_file_that_was_written_again_is_another_one(folder):
    expected = fingerprint(folder)
    path = min(folder.glob("*.safetensors"))
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))
    assert fingerprint(folder) != expected


def test_another_config_is_another_checkpoint(folder, edit_json):
    expected = fingerprint(folder)
    edit_json(folder / "config.json", lambda document: document.update(swiglu_limit=8.0))
    assert fingerprint(folder) != expected


def test_a_file_that_vanished_is_named(folder):
    reader = CheckpointReader.open(folder)
    min(folder.glob("*.safetensors")).unlink()
    with pytest.raises(CheckpointError, match=r"model-00001-of-00002\.safetensors"):
        reader.fingerprint()
