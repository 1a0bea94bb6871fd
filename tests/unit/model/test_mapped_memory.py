from __future__ import annotations

import sys

import pytest
import torch

from gptoss_ray.model.mapped_memory import map_file, read_in
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
