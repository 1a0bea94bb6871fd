"""Which memory of this process lies in huge pages, as the kernel tells it (Linux 6.7 and later).

Source: PAGEMAP_SCAN in Linux, Documentation/admin-guide/mm/pagemap.rst and include/uapi/linux/fs.h.
"""

from __future__ import annotations

import ctypes
import os
import sys

if sys.platform == "linux":
    import fcntl

_PAGE_IS_HUGE = 1 << 6
_MAX_REGIONS = 64
_PAGE_BYTES = 4096


class _ScanArguments(ctypes.Structure):
    """struct pm_scan_arg."""

    _fields_ = tuple(
        (name, ctypes.c_uint64)
        for name in (
            *("size", "flags", "start", "end", "walk_end", "vec", "vec_len", "max_pages"),
            *("category_inverted", "category_mask", "category_anyof_mask", "return_mask"),
        )
    )


class _Region(ctypes.Structure):
    """struct page_region."""

    _fields_ = (("start", ctypes.c_uint64), ("end", ctypes.c_uint64), ("categories", ctypes.c_uint64))


# _IOWR('f', 16, struct pm_scan_arg)
_PAGEMAP_SCAN = 3 << 30 | ctypes.sizeof(_ScanArguments) << 16 | ord("f") << 8 | 16


def huge_bytes(address: int, num_bytes: int) -> int | None:
    """Return how much of a range that begins on a page lies in huge pages; None: the system does not tell."""
    if sys.platform != "linux":
        return None
    try:
        pagemap = os.open("/proc/self/pagemap", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        return _scan(pagemap, address, address + -(-num_bytes // _PAGE_BYTES) * _PAGE_BYTES)
    except OSError:
        return None
    finally:
        os.close(pagemap)


def _scan(pagemap: int, start: int, end: int) -> int:
    regions = (_Region * _MAX_REGIONS)()
    total = 0
    while start < end:
        arguments = _ScanArguments(
            size=ctypes.sizeof(_ScanArguments),
            start=start,
            end=end,
            vec=ctypes.addressof(regions),
            vec_len=_MAX_REGIONS,
            category_mask=_PAGE_IS_HUGE,
            return_mask=_PAGE_IS_HUGE,
        )
        num_regions = fcntl.ioctl(pagemap, _PAGEMAP_SCAN, arguments)
        total += sum(region.end - region.start for region in regions[:num_regions])
        start = arguments.walk_end
    return total
