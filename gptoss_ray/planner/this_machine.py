"""This machine as an accelerator: its bandwidth and arithmetic measured in about a second, not looked up."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from gptoss_ray.planner.hardware import Accelerator, Link

_ROWS, _WIDTH = 16_384, 2_880
_NUM_TOKENS = 64
_REPEATS = 3
# A collective of ranks on one host through shared memory, between cores that are not busy otherwise.
_SHARED_MEMORY_LATENCY_S = 60e-6


def measure(memory_bytes: int, num_ranks: int) -> Accelerator:
    """Return the share that each of `num_ranks` ranks has of this machine, with torch's current threads.

    Reading is timed on a matrix-vector product (94 MB of bfloat16, more than most caches), arithmetic on the
    product of 64 rows with the same matrix; the best of three counts. Both are what torch reaches, so
    they are below the hardware's peak, and lower still while something else runs.

    Args:
        memory_bytes: Memory of the machine, all ranks together.
        num_ranks: Ranks that share it.
    """
    weight = torch.ones(_ROWS, _WIDTH, dtype=torch.bfloat16)
    row = torch.ones(_WIDTH, dtype=torch.bfloat16)
    rows = torch.ones(_NUM_TOKENS, _WIDTH, dtype=torch.bfloat16)
    bytes_per_s = weight.nbytes / _best_time(lambda: weight @ row)
    flops = 2 * weight.numel() * _NUM_TOKENS / _best_time(lambda: rows @ weight.t())
    return Accelerator(
        name=f"this machine's CPU, 1/{num_ranks}" if num_ranks > 1 else "this machine's CPU",
        memory_bytes=memory_bytes // num_ranks,
        memory_bytes_per_s=bytes_per_s / num_ranks,
        flops=flops / num_ranks,
        # A row is written once and read once by the receiver, through the memory that all share.
        link=Link("shared memory", bytes_per_s / (2 * num_ranks), _SHARED_MEMORY_LATENCY_S),
    )


def _best_time(work: Callable[[], object]) -> float:
    """Return the shortest of a few runs, in seconds, after one that warms up."""
    work()
    times = []
    for _ in range(_REPEATS):
        started_at = time.perf_counter()
        work()
        times.append(time.perf_counter() - started_at)
    return min(times)
