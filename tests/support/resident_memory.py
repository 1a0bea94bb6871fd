"""What this process holds of a file in memory, as Linux tells it."""

from __future__ import annotations

from pathlib import Path


def mapped_kib(path: Path, field: str = "Rss") -> int:
    """Return the KiB of a field of /proc/self/smaps, over all mappings of a file."""
    total = 0
    is_of_path = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        name, *values = line.split()
        if not name.endswith(":"):
            is_of_path = line.endswith(f" {path}") or line.endswith(f" {path} (deleted)")
        elif is_of_path and name == f"{field}:":
            total += int(values[0])
    return total
