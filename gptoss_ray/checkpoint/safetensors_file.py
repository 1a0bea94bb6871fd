"""One safetensors file: its header, checked before anything is believed, and its bytes, memory-mapped.

Format: 8 bytes little-endian header length, a JSON header, then the data; offsets count from its start.
The file comes from anywhere, so a wrong one gives Defects, never another exception, and nothing is
allocated on its word.
"""

from __future__ import annotations

import json
import math
import mmap
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from gptoss_ray.checkpoint.defect import Defect, printable
from gptoss_ray.checkpoint.json_file import parse_json_object

# The format's own limit (safetensors, MAX_HEADER_SIZE).
_MAX_HEADER_BYTES = 100_000_000
_MAX_DIMENSIONS = 16
_MAX_OFFSET = 1 << 62
_REFETCH = "fetch the file again"

DTYPE_BYTES = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1,
    "U16": 2, "I16": 2, "F16": 2, "BF16": 2,
    "U32": 4, "I32": 4, "F32": 4,
    "U64": 8, "I64": 8, "F64": 8,
}  # fmt: skip
TORCH_DTYPES = {
    "U8": torch.uint8, "I8": torch.int8, "I32": torch.int32, "I64": torch.int64,
    "F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32,
}  # fmt: skip
_NAMES_OF_DTYPES = {dtype: name for name, dtype in TORCH_DTYPES.items()}


@dataclass(frozen=True)
class TensorEntry:
    """Where a tensor lies: `begin` and `end` are byte offsets from the start of the file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


@dataclass(frozen=True)
class Header:
    """What a file's header says, as far as it can be believed, and what is wrong with it."""

    entries: dict[str, TensorEntry]
    defects: list[Defect]
    metadata: dict[str, str] = field(default_factory=dict)


def format_header(
    tensors: Sequence[tuple[str, torch.dtype, Sequence[int]]], metadata: Mapping[str, str]
) -> bytes:
    """Return the beginning of a file whose data are these tensors (name, dtype, shape), one after another.

    Its length is a multiple of 64, so that the first tensor is aligned for vector loads.
    """
    document: dict[str, object] = {"__metadata__": dict(metadata)}
    position = 0
    for name, dtype, shape in tensors:
        end = position + math.prod(shape) * dtype.itemsize
        document[name] = {
            "dtype": _NAMES_OF_DTYPES[dtype],
            "shape": list(shape),
            "data_offsets": [position, end],
        }
        position = end
    text = json.dumps(document, separators=(",", ":")).encode()
    # The format asks for data that begins at a multiple of 8; spaces behind the JSON are allowed.
    text += b" " * (-(8 + len(text)) % 64)
    return len(text).to_bytes(8, "little") + text


def read_header(path: Path) -> Header:
    """Read and check the header of the safetensors file at `path`."""
    try:
        file_bytes = path.stat().st_size
        with path.open("rb") as file:
            prefix = file.read(8)
            text = file.read(_header_bytes(prefix, file_bytes))
        return _parse(path.name, text, file_bytes)
    except OSError as error:
        remedy = "check path and permissions"
        return Header({}, [Defect(path.name, f"cannot be read ({error.strerror})", remedy)])
    except ValueError as error:
        return Header({}, [Defect(path.name, str(error), _REFETCH)])


def parse_header(file: str, data: memoryview) -> Header:
    """Check the header of a whole safetensors file in memory, called `file` in what is said of it."""
    try:
        header_bytes = _header_bytes(bytes(data[:8]), len(data))
        return _parse(file, bytes(data[8 : 8 + header_bytes]), len(data))
    except ValueError as error:
        return Header({}, [Defect(file, str(error), _REFETCH)])


def _header_bytes(prefix: bytes, file_bytes: int) -> int:
    """Return the length of the JSON that follows the first 8 bytes; ValueError if it cannot be true."""
    header_bytes = int.from_bytes(prefix, "little")
    if len(prefix) < 8:
        raise ValueError(f"truncated: {file_bytes} bytes, too short for a header")
    if header_bytes > _MAX_HEADER_BYTES:
        raise ValueError(f"bad header: {header_bytes} bytes, the limit is {_MAX_HEADER_BYTES}")
    if 8 + header_bytes > file_bytes:
        raise ValueError(f"truncated: {file_bytes} bytes, the header needs {8 + header_bytes}")
    return header_bytes


def _parse(file: str, text: bytes, file_bytes: int) -> Header:
    try:
        document = parse_json_object(text)
    except ValueError as error:
        raise ValueError(f"bad header: {error}") from None
    return _check(file, document, 8 + len(text), file_bytes)


def _check(file: str, document: dict[str, object], data_begin: int, file_bytes: int) -> Header:
    entries: dict[str, TensorEntry] = {}
    defects: list[Defect] = []
    for name, fields in document.items():
        if name == "__metadata__":
            continue
        try:
            entry = _parse_entry(name, fields, data_begin)
        except ValueError as error:
            defects.append(Defect(file, str(error), _REFETCH, printable(name)))
            continue
        if entry.end > file_bytes:
            problem = f"truncated: its data ends at byte {entry.end}, the file at {file_bytes}"
            defects.append(Defect(file, problem, _REFETCH, printable(name)))
        else:
            entries[name] = entry
    if not defects:
        defects = _check_coverage(file, list(entries.values()), data_begin, file_bytes)
    return Header(entries, defects, _texts(document.get("__metadata__")))


def _texts(metadata: object) -> dict[str, str]:
    """Return what of the metadata is text, as the format asks for; the rest means nothing."""
    items = metadata.items() if isinstance(metadata, dict) else ()
    return {name: value for name, value in items if isinstance(value, str)}


def _check_coverage(file: str, entries: list[TensorEntry], data_begin: int, file_bytes: int) -> list[Defect]:
    """Every byte of data must belong to exactly one tensor."""
    defects = []
    position, previous = data_begin, "the header"
    for entry in sorted(entries, key=lambda entry: (entry.begin, entry.end)):
        if entry.begin < position:
            problem = f"its bytes from {entry.begin} overlap {printable(previous)}, which ends at {position}"
            defects.append(Defect(file, problem, _REFETCH, printable(entry.name)))
        elif entry.begin > position:
            problem = f"a gap of {entry.begin - position} bytes lies before it"
            defects.append(Defect(file, problem, _REFETCH, printable(entry.name)))
        if entry.end >= position:
            position, previous = entry.end, entry.name
    if position < file_bytes:
        defects.append(Defect(file, f"its last {file_bytes - position} bytes belong to no tensor", _REFETCH))
    return defects


def _parse_entry(name: str, fields: object, data_begin: int) -> TensorEntry:
    if not isinstance(fields, dict):
        raise ValueError("bad header: its entry is not an object")
    dtype, shape, offsets = fields.get("dtype"), fields.get("shape"), fields.get("data_offsets")
    if not isinstance(dtype, str) or dtype not in DTYPE_BYTES:
        raise ValueError(f"unknown dtype {printable(repr(dtype))}")
    if not _are_naturals(shape) or len(shape) > _MAX_DIMENSIONS:  # type: ignore[arg-type]
        raise ValueError(f"bad shape {printable(repr(shape))}")
    if not _are_naturals(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:  # type: ignore[arg-type, index]
        raise ValueError(f"out-of-range offsets {printable(repr(offsets))}")
    begin, end = offsets  # type: ignore[misc]
    num_bytes = math.prod(shape) * DTYPE_BYTES[dtype]  # type: ignore[arg-type]
    if end - begin != num_bytes:
        needed = f"{dtype} {printable(repr(shape))} needs {printable(num_bytes)}"
        raise ValueError(f"its offsets span {end - begin} bytes, but {needed}")
    return TensorEntry(name, dtype, tuple(shape), data_begin + begin, data_begin + end)  # type: ignore[arg-type]


def _are_naturals(values: object) -> bool:
    return isinstance(values, list) and all(
        isinstance(value, int) and not isinstance(value, bool) and 0 <= value < _MAX_OFFSET
        for value in values
    )


class MappedFile:
    """The bytes of a checked file in memory; pages are read when touched."""

    def __init__(self, path: Path) -> None:
        with path.open("rb") as file:
            # Copy-on-write: torch wants writable memory, and the file must never change through it.
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)

    def read(self, entry: TensorEntry, first_row: int, num_rows: int) -> Tensor:
        """Return rows of a tensor as a view of the mapped file (a copy where it is not aligned)."""
        shape = (num_rows, *entry.shape[1:])
        if math.prod(shape) == 0:
            return torch.empty(shape, dtype=TORCH_DTYPES[entry.dtype])
        row_bytes = math.prod(entry.shape[1:]) * DTYPE_BYTES[entry.dtype]
        begin = entry.begin + first_row * row_bytes
        raw = torch.frombuffer(self._map, dtype=torch.uint8, count=num_rows * row_bytes, offset=begin)
        is_aligned = begin % DTYPE_BYTES[entry.dtype] == 0
        return (raw if is_aligned else raw.clone()).view(TORCH_DTYPES[entry.dtype]).view(shape)

    def release(self) -> None:
        """Drop the resident pages; views stay valid and read them again. Does nothing outside Linux."""
        # Only of this mapping: other processes and the kernel's cache of the file keep theirs.
        if sys.platform == "linux":
            self._map.madvise(mmap.MADV_DONTNEED)
