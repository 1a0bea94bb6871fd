from __future__ import annotations

import sys

import pytest
import torch

from gptoss_ray.checkpoint.reader import CheckpointReader
from gptoss_ray.checkpoint.safetensors_file import MappedFile, format_header, read_header
from tests.support.resident_memory import mapped_kib

NUM_BYTES = 64 << 20

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/smaps")


@pytest.fixture
def large_file(tmp_path):
    path = tmp_path / "large.safetensors"
    data = torch.arange(NUM_BYTES // 4, dtype=torch.int32)
    header = format_header([("x", torch.int32, data.shape)], {})
    path.write_bytes(header + data.numpy().tobytes())
    return path


@linux_only
def test_released_pages_are_not_resident_and_views_still_read_the_same(large_file):
    file = MappedFile(large_file)
    tensor = file.read(read_header(large_file).entries["x"], 0, NUM_BYTES // 4)
    expected = tensor.sum()
    assert mapped_kib(large_file) * 1024 >= NUM_BYTES
    file.release()
    assert mapped_kib(large_file) == 0
    assert tensor.sum() == expected
    assert mapped_kib(large_file) * 1024 >= NUM_BYTES


@linux_only
def test_releasing_after_each_slice_bounds_what_is_resident(large_file):
    file = MappedFile(large_file)
    entry = read_header(large_file).entries["x"]
    num_rows = NUM_BYTES // 4 // 16
    largest = 0
    for part in range(16):
        tensor = file.read(entry, part * num_rows, num_rows).clone()
        assert tensor[0] == part * num_rows
        largest = max(largest, mapped_kib(large_file))
        file.release()
    # A slice, and what the kernel maps around a touched page: at most 2 MiB on either side.
    assert largest * 1024 <= NUM_BYTES // 16 + (4 << 20)


@linux_only
def test_a_reader_releases_all_its_files_and_its_tensors_stay_valid(folder):
    reader = CheckpointReader.open(folder)
    tensors = {name: reader.read(name) for name in reader.names()}
    copies = {name: tensor.clone() for name, tensor in tensors.items()}
    paths = list(folder.glob("*.safetensors"))
    assert all(mapped_kib(path) > 0 for path in paths)
    reader.release()
    assert all(mapped_kib(path) == 0 for path in paths)
    assert all(torch.equal(tensors[name], copy) for name, copy in copies.items())


def test_releasing_before_anything_is_read_does_nothing(folder):
    reader = CheckpointReader.open(folder)
    reader.release()
    assert reader.read("final_norm.weight").any()


def test_releasing_does_nothing_on_other_systems(folder, monkeypatch):
    reader = CheckpointReader.open(folder)
    tensor = reader.read("final_norm.weight")
    expected = tensor.clone()
    monkeypatch.setattr("sys.platform", "darwin")
    reader.release()
    assert torch.equal(tensor, expected)
