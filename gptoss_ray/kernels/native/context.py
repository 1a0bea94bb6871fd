"""NativeContext: an instruction set and the threads that run it."""

from __future__ import annotations

import ctypes
import os
import weakref
from collections.abc import Sequence
from typing import NoReturn

from gptoss_ray.kernels.native.library import INSTRUCTION_SETS, NativeLibrary


class NativeContext:
    """The first argument of all native functions. One thread at a time may call with it.

    Args:
        library: What is built here.
        num_threads: That compute, the caller's included.
        instruction_set: One of the library's; None: the fastest.
        cpus: To pin the threads to, in their order; the caller's, the first, is never pinned. None: nowhere.

    Attributes:
        functions: Of the library.
        handle: Of the context; None once closed, which every function refuses.

    Raises:
        ValueError: The library or this machine does not offer what is asked.
    """

    def __init__(
        self,
        library: NativeLibrary,
        num_threads: int,
        *,
        instruction_set: str | None = None,
        cpus: Sequence[int] | None = None,
    ) -> None:
        self.library = library
        self.num_threads = num_threads
        self.instruction_set = instruction_set or library.instruction_set
        self.functions = library.functions
        if self.instruction_set not in library.instruction_sets:
            offered = ", ".join(library.instruction_sets)
            raise ValueError(f"instruction_set is {instruction_set!r}; this machine has {offered}")
        if num_threads < 1:
            raise ValueError(f"num_threads is {num_threads}; it must be at least 1")
        if cpus is not None and len(cpus) != num_threads:
            raise ValueError(f"cpus are {list(cpus)}; there must be one for each of {num_threads} threads")
        places = None if cpus is None else (ctypes.c_int32 * num_threads)(*cpus)
        isa = INSTRUCTION_SETS.index(self.instruction_set)
        self.handle: int | None = self.functions.gr_create(num_threads, isa, places)
        if not self.handle:
            self.fail()
        self._destroy = weakref.finalize(self, self.functions.gr_destroy, self.handle)

    def close(self) -> None:
        """End the threads; else the garbage collector does."""
        self.handle = None
        self._destroy()

    def fail(self) -> NoReturn:
        """Raise ValueError with what was wrong with this thread's last call."""
        raise ValueError("the native kernels are closed" if self.is_closed else self.library.last_error())

    @property
    def is_closed(self) -> bool:
        """Whether `close` was called."""
        return hasattr(self, "_destroy") and not self._destroy.alive


def usable_cpus(num_threads: int) -> list[int]:
    """Return the first CPUs that this process may use; ValueError if there are fewer than `num_threads`."""
    cpus = sorted(os.sched_getaffinity(0))
    if len(cpus) < num_threads:
        raise ValueError(
            f"{num_threads} threads cannot be pinned to the {len(cpus)} CPUs that this process may use; "
            "use fewer, or do not pin them"
        )
    return cpus[:num_threads]
