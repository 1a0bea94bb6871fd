from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from gptoss_ray.model.mapped_memory import HUGE_PAGE_BYTES, huge_memory, map_file, read_in
from tests.support.resident_memory import mapped_kib

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="Linux tells what is resident")


def huge_pages_allowed():
    setting = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    return setting.exists() and "[never]" not in setting.read_text()


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


@pytest.mark.parametrize("num_bytes", [1, 4095, HUGE_PAGE_BYTES, 3 * HUGE_PAGE_BYTES + 7])
def test_huge_memory_is_zero_writable_and_begins_on_a_huge_page(num_bytes):
    memory = huge_memory(num_bytes)
    assert memory.shape == (num_bytes,)
    assert not memory.any()
    if sys.platform == "linux":
        assert memory.data_ptr() % HUGE_PAGE_BYTES == 0
    memory.fill_(7)
    assert memory.sum() == 7 * num_bytes


@linux_only
@pytest.mark.skipif(not huge_pages_allowed(), reason="the system allows no huge pages")
def test_huge_memory_lies_in_huge_pages():
    before = huge_kib_of_this_process()
    memory = huge_memory(8 * HUGE_PAGE_BYTES + 5)
    memory.fill_(1)
    # Not all of them: the system may have run out of contiguous memory.
    assert huge_kib_of_this_process() - before >= HUGE_PAGE_BYTES >> 10


def huge_kib_of_this_process():
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("AnonHugePages:"))


def test_other_systems_get_plain_memory(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "platform", "darwin")
    memory = huge_memory(HUGE_PAGE_BYTES + 1)
    assert memory.shape == (HUGE_PAGE_BYTES + 1,)
    assert not memory.any()
