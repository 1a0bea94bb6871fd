from __future__ import annotations

from gptoss_ray.model.host_memory import host_memory_bytes


def test_a_containers_limit_counts_where_it_is_lower_than_the_machines_memory(tmp_path):
    physical = host_memory_bytes(tmp_path / "absent")
    assert physical > 1 << 28
    limit = tmp_path / "memory.max"
    for text, expected in (("max\n", physical), ("1048576\n", 1 << 20), (f"{physical * 2}\n", physical)):
        limit.write_text(text)
        assert host_memory_bytes(limit) == expected
