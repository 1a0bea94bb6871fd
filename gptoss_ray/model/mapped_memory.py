"""Files of weights, mapped by hand."""

from __future__ import annotations

import ctypes
import errno
import os
from pathlib import Path

import torch
from torch import Tensor

from gptoss_ray.huge_memory import HUGE_PAGE_BYTES, MADV_HUGEPAGE, find_madvise
from gptoss_ray.model.page_scan import huge_bytes

# Linux, include/uapi/asm-generic/mman-common.h; the mmap module lacks the last one.
_MADV_WILLNEED, _MADV_POPULATE_READ = 3, 22


def map_file(path: Path, num_bytes: int) -> Tensor:
    """Return the first `num_bytes` of a file, uint8, as a private mapping that begins on a page.

    No file descriptor stays open (a model has thousands of such files), and the mapping lives as long
    as any view of it. OSError if the file is shorter or cannot be mapped.
    """
    try:
        # Not shared: what is written to the tensor would never reach the file.
        return torch.from_file(str(path), shared=False, size=num_bytes, dtype=torch.uint8)
    except RuntimeError as error:
        raise OSError(errno.ENOMEM, f"cannot be mapped ({str(error).splitlines()[0]})", str(path)) from None


def read_in(mapped: Tensor) -> None:
    """Bring all pages of a `map_file` tensor into memory, as huge ones where the kernel can.

    Does nothing outside Linux: pages are read when touched. OSError if the disk fails.
    """
    madvise = find_madvise()
    if madvise is None or not mapped.numel():
        return
    address, num_bytes = mapped.data_ptr(), mapped.numel()
    # Before the first touch: it decides how large the pages are that the kernel reads the file into.
    madvise(address, num_bytes, MADV_HUGEPAGE)
    if madvise(address, num_bytes, _MADV_POPULATE_READ) == 0:
        return
    problem = ctypes.get_errno()
    if problem != errno.EINVAL:
        raise OSError(problem, os.strerror(problem))
    madvise(address, num_bytes, _MADV_WILLNEED)  # before Linux 5.14


class FileMapper:
    """Maps files and brings them into memory, as huge pages where the kernel can.

    A file that lies in the system's cache in small pages, as after it was copied, stays in these however it
    is mapped. So it is dropped from there and read again; once that was in vain (another process maps it, or
    the file system knows no huge pages), no other file is read twice.
    """

    def __init__(self) -> None:
        self._tries_again = True

    def map(self, path: Path) -> Tensor:
        """Return the whole file, uint8; OSError if it cannot be mapped or read."""
        mapped = _map_whole(path)
        if not (self._tries_again and _lies_in_small_pages(mapped)):
            return mapped
        del mapped
        forget_path(path)
        mapped = _map_whole(path)
        self._tries_again = not _lies_in_small_pages(mapped)
        return mapped


def _map_whole(path: Path) -> Tensor:
    # All of it at once: a small read before would fill memory with small pages.
    mapped = map_file(path, path.stat().st_size)
    read_in(mapped)
    return mapped


def _lies_in_small_pages(mapped: Tensor) -> bool:
    """Whether most of what could lie in huge pages does not, as far as the system tells."""
    possible = mapped.numel() // HUGE_PAGE_BYTES * HUGE_PAGE_BYTES
    found = huge_bytes(mapped.data_ptr(), mapped.numel()) if possible else None
    return found is not None and found < possible // 2


def forget_file(file: int) -> bool:
    """Write what is not on disk yet of an open file, and ask the system to drop its pages from memory.

    Returns:
        Whether the system takes such a wish; pages that a process maps stay.
    """
    if not hasattr(os, "posix_fadvise"):
        return False
    os.fsync(file)  # what is not yet written cannot be dropped
    os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
    return True


def forget_path(path: Path) -> bool:
    """Do as `forget_file` with a file that is not open; OSError if it cannot be."""
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return forget_file(file)
    finally:
        os.close(file)
