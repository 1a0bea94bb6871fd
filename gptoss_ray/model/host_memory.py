"""How much memory this process may use."""

from __future__ import annotations

import os
from pathlib import Path

_CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")


def host_memory_bytes(cgroup_limit: Path = _CGROUP_LIMIT) -> int:
    """Return the machine's physical memory, or the container's limit (cgroup v2) where that is lower."""
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        limit = cgroup_limit.read_text(encoding="ascii").strip()
    except OSError:  # not Linux, cgroup v1, or the root group: no limit to read
        return physical
    return physical if limit == "max" else min(physical, int(limit))
