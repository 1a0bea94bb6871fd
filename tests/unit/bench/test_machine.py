from __future__ import annotations

import platform

from gptoss_ray.bench.machine import OtherLoad, machine_row, processor_name


def test_the_processor_has_a_name(tmp_path):
    (tmp_path / "cpuinfo").write_text("processor\t: 0\nmodel name\t: Some CPU\nmodel name\t: Other\n")
    assert processor_name(tmp_path / "cpuinfo") == "Some CPU"
    assert processor_name(tmp_path / "none") == platform.machine()


def test_a_reader_learns_on_what_was_measured():
    row = machine_row()
    assert row["cpus"] >= 1 and row["memory_gb"] > 0 and row["processor"]


def test_the_load_of_others_is_never_negative():
    load = OtherLoad()
    sum(range(100_000))
    assert load.cpus() >= 0
