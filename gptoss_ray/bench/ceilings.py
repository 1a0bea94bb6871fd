"""The limits of a CPU that kernels are held against: reading memory, and products of either activations."""

from __future__ import annotations

import ctypes
import mmap
import multiprocessing
import statistics
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from dataclasses import dataclass

import numpy as np

from gptoss_ray.bench.step_bytes import ActivationFormat
from gptoss_ray.errors import ConfigError
from gptoss_ray.kernels.native.context import NativeContext
from gptoss_ray.kernels.native.library import Activations, find_library

READ_BYTES = 1 << 30
"""More than any cache holds."""

# A dot is 16 lanes of two products and two sums, or of four.
_FLOPS_PER_DOT = {Activations.BF16: 64, Activations.INT8: 128}
_TRIAL_DOTS = 1 << 16
_DOTS_S = 0.2


@dataclass(frozen=True)
class Ceilings:
    """What all threads together reached, repeat by repeat."""

    read_bytes_per_s: tuple[float, ...]
    flops_per_s: tuple[float, ...]
    int8_ops_per_s: tuple[float, ...]

    @property
    def read(self) -> float:
        """Median of the reads, bytes a second."""
        return statistics.median(self.read_bytes_per_s)

    def dots(self, activations: ActivationFormat) -> float:
        """Return the median of the dot products of such activations, operations a second."""
        return statistics.median(self.int8_ops_per_s if activations == "int8" else self.flops_per_s)

    def row(self, when: str) -> dict[str, float | int | str]:
        """Return the figures that are printed."""
        return {
            "when": when,
            "read_gb_per_s": round(self.read / 1e9, 2),
            "best_read_gb_per_s": round(max(self.read_bytes_per_s) / 1e9, 2),
            "dots_gflop_per_s": round(self.dots("bfloat16") / 1e9, 1),
            "best_dots_gflop_per_s": round(max(self.flops_per_s) / 1e9, 1),
            "int8_dots_gop_per_s": round(self.dots("int8") / 1e9, 1),
            "best_int8_dots_gop_per_s": round(max(self.int8_ops_per_s) / 1e9, 1),
        }


def together(ceilings: Sequence[Ceilings]) -> Ceilings:
    """Return several measurements as one: its medians are over all repeats."""
    return Ceilings(
        tuple(rate for each in ceilings for rate in each.read_bytes_per_s),
        tuple(rate for each in ceilings for rate in each.flops_per_s),
        tuple(rate for each in ceilings for rate in each.int8_ops_per_s),
    )


def measure(num_threads: int, *, num_bytes: int = READ_BYTES, repeats: int = 5) -> Ceilings:
    """Measure all limits with the native library's best instruction set, in a process of its own.

    So the memory that is read is not counted as anyone's else, and is gone afterwards.

    Args:
        num_threads: Threads that read and compute.
        num_bytes: Read at a time, from memory in large pages where the system gives them.
        repeats: Of each, after one that warms up.

    Raises:
        ConfigError: There is no native library; the message says why.
    """
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(measure_here, num_threads, num_bytes, repeats).result()


def measure_here(num_threads: int, num_bytes: int, repeats: int) -> Ceilings:
    """Measure all limits in this process; see `measure`."""
    library = find_library()
    if isinstance(library, str):
        raise ConfigError(f"ceilings are measured by the native kernels, but {library}.")
    with closing(NativeContext(library, num_threads)) as context:
        return Ceilings(
            _read_rates(context, num_bytes, repeats),
            _dot_rates(context, Activations.BF16, repeats),
            _dot_rates(context, Activations.INT8, repeats),
        )


def _read_rates(context: NativeContext, num_bytes: int, repeats: int) -> tuple[float, ...]:
    """Return bytes a second of each repeat."""
    checksum = ctypes.c_uint64()
    with mmap.mmap(-1, num_bytes) as memory:
        if hasattr(mmap, "MADV_HUGEPAGE"):
            memory.madvise(mmap.MADV_HUGEPAGE)
        data = np.frombuffer(memory, np.uint8)
        data.fill(1)
        address = data.ctypes.data
        del data  # memory cannot be given back while an array shows it

        def read() -> float:
            began = time.perf_counter()
            read_all = context.functions.gr_measure_read
            if read_all(context.handle, address, num_bytes, ctypes.byref(checksum)):
                context.fail()
            return num_bytes / (time.perf_counter() - began)

        read()
        return tuple(read() for _ in range(repeats))


def _dot_rates(context: NativeContext, activations: Activations, repeats: int) -> tuple[float, ...]:
    """Return operations a second of each repeat, each about 0.2 s long."""
    # The first trial wakes the threads, the second tells how fast they are.
    _dots_per_s(context, activations, _TRIAL_DOTS)
    num_dots = int(_DOTS_S * _dots_per_s(context, activations, _TRIAL_DOTS)) + 1
    flops = context.num_threads * _FLOPS_PER_DOT[activations]
    return tuple(flops * _dots_per_s(context, activations, num_dots) for _ in range(repeats))


def _dots_per_s(context: NativeContext, activations: Activations, num_dots: int) -> float:
    """Let each thread take that many dots; return the dots of one thread a second."""
    sink = (ctypes.c_float * context.num_threads)()
    began = time.perf_counter()
    if context.functions.gr_measure_dots(context.handle, num_dots, activations, sink):
        context.fail()
    return num_dots / (time.perf_counter() - began)
