"""One file of packed weights: a safetensors file whose tensors each begin on 64 bytes.

Vector loads want 64-byte alignment, and the format allows no gaps, so a uint8 tensor `__padding_<i>`
fills each of them. The metadata names the part and the identity it belongs to, and holds a checksum of
64 bytes of every page: a page that was lost or never written is found without reading all data through
the processor.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from gptoss_ray.checkpoint.safetensors_file import TORCH_DTYPES, Header, format_header, parse_header
from gptoss_ray.model.mapped_memory import FileMapper

ALIGNMENT = 64
_PADDING = "__padding_"
_PAGE_BYTES = 4096
_MAX_WRITTEN_TOGETHER = 512  # POSIX allows IOV_MAX, 1024 on Linux

_Bytes = npt.NDArray[np.uint8]


class DamagedPartError(Exception):
    """A file of packed weights is not what it should be; the message says how."""


def write_part(file: int, tensors: Mapping[str, Tensor], part: str, identity: str) -> None:
    """Write tensors to an open, empty file.

    Args:
        file: Its descriptor.
        tensors: By names that do not begin with `__`, of any dtype in `TORCH_DTYPES`.
        part: Its name.
        identity: What the tensors were made of.

    Raises:
        ValueError: A name or a dtype cannot be stored.
        OSError: The disk is full or fails.
    """
    contents: list[tuple[str, torch.dtype, Sequence[int]]] = []
    chunks: list[_Bytes] = []
    for name, tensor in tensors.items():
        if name.startswith("__") or tensor.dtype not in TORCH_DTYPES.values():
            raise ValueError(
                f"tensor {name!r} of {tensor.dtype} cannot be stored in {part}; rename or cast it"
            )
        contents.append((name, tensor.dtype, tensor.shape))
        chunks.append(_bytes_of(tensor))
        padding = -tensor.nbytes % ALIGNMENT
        if padding:
            contents.append((f"{_PADDING}{len(chunks)}", torch.uint8, (padding,)))
            chunks.append(np.zeros(padding, np.uint8))
    metadata = {"part": part, "identity": identity, "checksum": _checksum(chunks)}
    header = np.frombuffer(format_header(contents, metadata), np.uint8)
    _write_all(file, [header, *chunks])


def map_part(
    mapper: FileMapper, path: Path, part: str, identity: str, *, check_contents: bool = True
) -> dict[str, Tensor]:
    """Return the tensors of a file as views of its mapping, read into memory.

    Args:
        mapper: Of all files of a store.
        path: The file.
        part: The name it must carry.
        identity: The identity it must carry.
        check_contents: Whether to compare the checksum.

    Raises:
        FileNotFoundError: There is none.
        DamagedPartError: It is truncated, another's, or cannot be read.
    """
    if not path.is_file():
        raise FileNotFoundError(path)
    try:
        mapped = mapper.map(path)
    except OSError as error:
        raise DamagedPartError(f"cannot be read ({error.strerror})") from None
    header = parse_header(path.name, mapped.numpy().data)
    _check_header(header, part, identity)
    entries = sorted(header.entries.values(), key=lambda entry: entry.begin)
    if check_contents:
        checksum = _checksum(mapped[entry.begin : entry.end].numpy() for entry in entries)
        if checksum != header.metadata.get("checksum"):
            raise DamagedPartError("its contents changed since it was written")
    return {
        entry.name: mapped[entry.begin : entry.end].view(TORCH_DTYPES[entry.dtype]).view(entry.shape)
        for entry in entries
        if not entry.name.startswith(_PADDING)
    }


def _check_header(header: Header, part: str, identity: str) -> None:
    if header.defects:
        raise DamagedPartError(header.defects[0].problem)
    found = (header.metadata.get("part"), header.metadata.get("identity"))
    if found != (part, identity):
        raise DamagedPartError("it belongs to another part or checkpoint")
    for entry in header.entries.values():
        is_aligned = entry.begin % ALIGNMENT == 0 or entry.name.startswith(_PADDING)
        if not is_aligned or entry.dtype not in TORCH_DTYPES:
            raise DamagedPartError(f"tensor {entry.name} is not aligned or of an unknown dtype")


def _bytes_of(tensor: Tensor) -> _Bytes:
    data: _Bytes = tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()
    return data


def _checksum(chunks: Iterable[_Bytes]) -> str:
    """Return the CRC-32 (hex) of the first 64 of every 4096 bytes of each chunk, and of its last ones."""
    value = 0
    for chunk in chunks:
        whole = chunk[: len(chunk) // _PAGE_BYTES * _PAGE_BYTES].reshape(-1, _PAGE_BYTES)
        value = zlib.crc32(np.ascontiguousarray(whole[:, :ALIGNMENT]).data, value)
        value = zlib.crc32(chunk[whole.size :][:ALIGNMENT].data, value)
        value = zlib.crc32(chunk[-ALIGNMENT:].data, value)
    return f"{value:08x}"


def _write_all(file: int, chunks: Iterable[_Bytes]) -> None:
    """Write chunks one after the other, in as few calls as possible."""
    left = [chunk.data for chunk in chunks if len(chunk)]
    while left:
        num_written = os.writev(file, list(islice(left, _MAX_WRITTEN_TOGETHER)))
        while left and num_written >= len(left[0]):
            num_written -= len(left.pop(0))
        if num_written:
            left[0] = left[0][num_written:]
