"""What the C library has handed out and not got back, in bytes."""

from __future__ import annotations

import ctypes

import pytest

_C = ctypes.CDLL(None)

needs_mallinfo = pytest.mark.skipif(not hasattr(_C, "mallinfo2"), reason="needs glibc 2.33")


class _Mallinfo(ctypes.Structure):
    """`struct mallinfo2` of malloc.h."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in (
            *("arena", "ordblks", "smblks", "hblks", "hblkhd"),
            *("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"),
        )
    ]


def allocated_bytes() -> int:
    """Return the bytes in use in all arenas and in mappings of their own."""
    mallinfo = _C.mallinfo2
    mallinfo.restype = _Mallinfo
    info = mallinfo()
    return info.uordblks + info.hblkhd
