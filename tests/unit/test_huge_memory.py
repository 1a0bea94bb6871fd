from __future__ import annotations

import sys
from pathlib import Path

import pytest

from gptoss_ray.huge_memory import HUGE_PAGE_BYTES, huge_memory


def huge_pages_allowed():
    setting = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    return setting.exists() and "[never]" not in setting.read_text()


@pytest.mark.parametrize("num_bytes", [1, 4095, HUGE_PAGE_BYTES, 3 * HUGE_PAGE_BYTES + 7])
def test_huge_memory_is_zero_writable_and_begins_on_a_huge_page(num_bytes):
    memory = huge_memory(num_bytes)
    assert memory.shape == (num_bytes,)
    assert not memory.any()
    if sys.platform == "linux":
        assert memory.data_ptr() % HUGE_PAGE_BYTES == 0
    memory.fill_(7)
    assert memory.sum() == 7 * num_bytes


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


def test_other_systems_get_plain_memory(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    memory = huge_memory(HUGE_PAGE_BYTES + 1)
    assert memory.shape == (HUGE_PAGE_BYTES + 1,)
    assert not memory.any()
