from __future__ import annotations

import sys

import pytest

from gptoss_ray.bench.process_memory import ResidentMemory, resident_memory, watching_memory

STATUS = """Name:\tpython
VmRSS:\t  700 kB
RssAnon:\t  400 kB
RssFile:\t  200 kB
RssShmem:\t  100 kB
"""


def test_anonymous_pages_and_pages_of_files_are_told_apart(tmp_path):
    (tmp_path / "status").write_text(STATUS)
    memory = resident_memory(tmp_path / "status")
    assert memory == ResidentMemory(400 * 1024, 300 * 1024)
    assert memory.total_bytes == 700 * 1024


def test_a_system_that_does_not_tell_gives_zeros(tmp_path):
    assert resident_memory(tmp_path / "none") == ResidentMemory()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells")
def test_a_peak_is_seen_although_the_memory_is_given_back():
    with watching_memory() as peak:
        before = resident_memory().anonymous_bytes
        held = b"x" * (64 << 20)
        peak.look()
        del held
    assert peak.anonymous_bytes - before > 60 << 20
    assert peak.row()["peak_gb"] >= peak.row()["peak_anonymous_gb"] > 0
