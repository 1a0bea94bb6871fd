"""On what machine something was measured, and how much of it others used meanwhile."""

from __future__ import annotations

import os
import platform
import time
from pathlib import Path

import psutil
import torch

from gptoss_ray.model.host_memory import host_memory_bytes

_CPU_INFO = Path("/proc/cpuinfo")


def machine_row() -> dict[str, float | int | str]:
    """Return what a reader of figures must know of this machine."""
    return {
        "processor": processor_name(),
        "cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        "memory_gb": round(host_memory_bytes() / 1e9, 1),
        "system": platform.platform(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def processor_name(cpu_info: Path = _CPU_INFO) -> str:
    """Return the model name of the first processor, or the architecture where the system does not tell."""
    try:
        lines = cpu_info.read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


class OtherLoad:
    """Processors that other processes used since this object was made; children that ended count as ours."""

    def __init__(self) -> None:
        self._began = time.perf_counter()
        self._busy_s, self._own_s = _busy_s(), _own_s()

    def cpus(self) -> float:
        """Return how many processors others kept busy, on average."""
        others_s = (_busy_s() - self._busy_s) - (_own_s() - self._own_s)
        return max(0.0, others_s / (time.perf_counter() - self._began))


def _busy_s() -> float:
    times = psutil.cpu_times()
    return float(sum(getattr(times, name, 0.0) for name in ("user", "nice", "system", "irq", "softirq")))


def _own_s() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system
