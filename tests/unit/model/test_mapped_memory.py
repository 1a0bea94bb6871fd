from __future__ import annotations

import sys

import pytest
import torch

from gptoss_ray.huge_memory import HUGE_PAGE_BYTES
from gptoss_ray.model import mapped_memory
from gptoss_ray.model.mapped_memory import FileMapper, forget_path, map_file, read_in
from gptoss_ray.model.page_scan import huge_bytes
from tests.support.resident_memory import mapped_kib

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="Linux tells what is resident")


@linux_only
def test_a_mapped_file_is_resident_once_it_is_read_in_and_unmapped_with_its_last_view(tmp_path):
    path = tmp_path / "file"
    data = torch.arange(1 << 20)
    path.write_bytes(data.numpy().tobytes())
    view = map_file(path, 8 << 20)[: 4 << 20].view(torch.int64)
    read_in(map_file(path, 8 << 20))
    assert mapped_kib(path) < 8 << 10
    whole = map_file(path, 8 << 20)
    read_in(whole)
    assert mapped_kib(path) >= 8 << 10
    assert torch.equal(view, data[: 1 << 19])
    del view, whole
    assert mapped_kib(path, "Size") == 0


def test_a_file_that_is_shorter_or_absent_is_an_os_error(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"123")
    for wrong in (path, tmp_path / "absent"):
        with pytest.raises(OSError, match="cannot be mapped"):
            map_file(wrong, 4)
    assert map_file(path, 3).tolist() == [49, 50, 51]


def test_an_empty_file_is_read_in(tmp_path):
    path = tmp_path / "file"
    path.touch()
    read_in(map_file(path, 0))


def share_in_huge_pages(tensor):
    found = huge_bytes(tensor.data_ptr(), tensor.numel())
    return None if found is None else found / tensor.numel()


def large_file(path, num_huge_pages=8):
    path.write_bytes(bytes([7]) * (num_huge_pages * HUGE_PAGE_BYTES))
    return path


@linux_only
def test_a_file_that_lies_in_memory_in_small_pages_is_mapped_in_huge_ones(tmp_path):
    path = large_file(tmp_path / "file")
    forget_path(path)
    fresh = map_file(path, path.stat().st_size)
    read_in(fresh)
    if not share_in_huge_pages(fresh):
        pytest.skip("the file system here has no huge pages, or the kernel does not tell")
    del fresh
    forget_path(path)
    path.read_bytes()
    small = map_file(path, path.stat().st_size)
    read_in(small)
    assert share_in_huge_pages(small) == 0
    del small
    mapped = FileMapper().map(path)
    assert share_in_huge_pages(mapped) > 0.5
    assert (mapped == 7).all()


@pytest.mark.parametrize(("huge_bytes_found", "num_read_again"), [(0, 1), (None, 0), (1 << 30, 0)])
def test_files_are_read_again_only_until_that_is_in_vain(
    tmp_path, monkeypatch, huge_bytes_found, num_read_again
):
    forgotten = []
    monkeypatch.setattr(mapped_memory, "huge_bytes", lambda address, num_bytes: huge_bytes_found)
    monkeypatch.setattr(mapped_memory, "forget_path", forgotten.append)
    mapper = FileMapper()
    for number in range(3):
        assert (mapper.map(large_file(tmp_path / str(number), 1)) == 7).all()
    assert len(forgotten) == num_read_again


def test_a_file_of_less_than_a_huge_page_is_mapped_as_it_is(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"123")
    assert FileMapper().map(path).tolist() == [49, 50, 51]


def test_a_system_that_does_not_tell_of_huge_pages_is_no_error(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    assert huge_bytes(0, 4096) is None
