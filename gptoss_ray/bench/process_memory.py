"""Resident memory of this process: now, and at its peak while something runs."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_STATUS = Path("/proc/self/status")
_INTERVAL_S = 0.02


@dataclass(frozen=True)
class ResidentMemory:
    """Bytes in memory; pages of mapped files can be dropped and read again, anonymous ones cannot."""

    anonymous_bytes: int = 0
    file_bytes: int = 0

    @property
    def total_bytes(self) -> int:
        """Both kinds."""
        return self.anonymous_bytes + self.file_bytes


def resident_memory(status: Path = _STATUS) -> ResidentMemory:
    """Return what is resident now; zeros where the system does not tell (anything but Linux)."""
    try:
        text = status.read_text(encoding="ascii")
    except OSError:
        return ResidentMemory()
    kilobytes = {name: int(value) for name, value in re.findall(r"(\w+):\s+(\d+) kB", text)}
    shared = kilobytes.get("RssShmem", 0)
    return ResidentMemory(1024 * kilobytes.get("RssAnon", 0), 1024 * (kilobytes.get("RssFile", 0) + shared))


class PeakMemory:
    """The most that was resident at any moment that was looked at; each kind at its own peak too."""

    def __init__(self) -> None:
        self.anonymous_bytes = 0
        self.file_bytes = 0
        self.total_bytes = 0

    def look(self) -> None:
        """Take the present into account."""
        now = resident_memory()
        self.anonymous_bytes = max(self.anonymous_bytes, now.anonymous_bytes)
        self.file_bytes = max(self.file_bytes, now.file_bytes)
        self.total_bytes = max(self.total_bytes, now.total_bytes)

    def row(self) -> dict[str, float]:
        """Return the figures that are printed."""
        return {
            "peak_gb": round(self.total_bytes / 1e9, 2),
            "peak_anonymous_gb": round(self.anonymous_bytes / 1e9, 2),
            "peak_file_gb": round(self.file_bytes / 1e9, 2),
        }


@contextmanager
def watching_memory() -> Iterator[PeakMemory]:
    """Look at the memory every 20 ms while the block runs; the peaks are final when it ends."""
    peak = PeakMemory()
    is_over = threading.Event()

    def watch() -> None:
        while not is_over.wait(_INTERVAL_S):
            peak.look()

    thread = threading.Thread(target=watch, name="memory-watch", daemon=True)
    thread.start()
    try:
        yield peak
    finally:
        is_over.set()
        thread.join()
        peak.look()
