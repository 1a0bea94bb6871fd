"""A checkpoint's fingerprint: what tells it from any other, without reading all of it.

Fine-tuned models share shapes and sizes with the published ones, so names, sizes and headers do not
tell them apart. Modification times and samples of every tensor do, short of intent. Copies on several hosts
have other times: there samples alone have to do, and the manifest where there is one.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

from gptoss_ray.checkpoint.manifest import MANIFEST_NAME
from gptoss_ray.checkpoint.safetensors_file import TensorEntry, read_header
from gptoss_ray.checkpoint.shards import Shards
from gptoss_ray.errors import CheckpointError

_SAMPLE_BYTES = 4096
# About 900 reads for the published 20b model.
_SAMPLE_INTERVAL_BYTES = 64 << 20


def fingerprint(folder: Path, shards: Shards) -> str:
    """Return the SHA-256 (hex) of config.json and of every file's name, size, time, header and samples.

    Args:
        folder: Of the checkpoint; its path does not count.
        shards: Without defects.

    Raises:
        CheckpointError: A file cannot be read.
    """
    entries: dict[Path, list[TensorEntry]] = {}
    for name, path in shards.paths.items():
        entries.setdefault(path, []).append(shards.entries[name])
    digest = hashlib.sha256()
    try:
        digest.update((folder / "config.json").read_bytes())
        for path in sorted(entries):
            status = path.stat()
            digest.update(f"\0{path.name}\0{status.st_size}\0{status.st_mtime_ns}\0".encode())
            for data in _samples(path, sorted(entries[path], key=lambda entry: entry.begin)):
                digest.update(data)
    except OSError as error:
        raise CheckpointError(
            f"{folder}: cannot be read ({error}); check its files and permissions"
        ) from error
    return digest.hexdigest()


def content_identity(folder: Path) -> str:
    """Return the SHA-256 (hex) of what two copies of a checkpoint have in common, times and paths left out.

    Takes in config, tokenizer and manifest whole, and of each file of weights its name, size, header and
    samples.

    Raises:
        CheckpointError: A file cannot be read.
    """
    digest = hashlib.sha256()
    try:
        for name in ("config.json", "tokenizer.json", MANIFEST_NAME):
            path = folder / name
            digest.update(f"\0{name}\0".encode() + (path.read_bytes() if path.is_file() else b""))
        for path in sorted(folder.glob("*.safetensors")):
            digest.update(f"\0{path.name}\0{path.stat().st_size}\0".encode())
            entries = sorted(read_header(path).entries.values(), key=lambda entry: entry.begin)
            for data in _samples(path, entries):
                digest.update(data)
    except OSError as error:
        raise CheckpointError(
            f"{folder}: cannot be read ({error}); check its files and permissions"
        ) from error
    return digest.hexdigest()


def _samples(path: Path, entries: list[TensorEntry]) -> Iterator[bytes]:
    """Yield the header, then bytes at intervals from the beginning of each tensor, and its last ones."""
    file = os.open(path, os.O_RDONLY)
    try:
        header_bytes = int.from_bytes(os.pread(file, 8, 0), "little")
        yield os.pread(file, header_bytes, 8)
        for entry in entries:
            for begin in range(entry.begin, entry.end, _SAMPLE_INTERVAL_BYTES):
                yield os.pread(file, min(_SAMPLE_BYTES, entry.end - begin), begin)
            last = max(entry.begin, entry.end - _SAMPLE_BYTES)
            yield os.pread(file, entry.end - last, last)
    finally:
        os.close(file)
