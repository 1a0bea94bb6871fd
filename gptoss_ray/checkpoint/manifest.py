"""SHA256SUMS: the hash of every file of a checkpoint, as `sha256sum -c` reads it too.

Whoever trusts a checkpoint writes it once; every node that has a copy can then tell whether it is the same.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from gptoss_ray.checkpoint.defect import Defect, printable
from gptoss_ray.errors import CheckpointError

MANIFEST_NAME = "SHA256SUMS"

_MAX_BYTES = 1 << 20
_CHUNK_BYTES = 8 << 20
_LINE = re.compile(r"([0-9a-f]{64}) [ *]([A-Za-z0-9][A-Za-z0-9._-]{0,199})")
_REMEDY = "fetch the file again"

Progress = Callable[[int, int], None]


def write_manifest(folder: Path, progress: Progress | None = None) -> Path:
    """Hash all files of a checkpoint and write the manifest into its folder; returns its path.

    Args:
        folder: Of the checkpoint.
        progress: Called with (bytes done, bytes in all).

    Raises:
        CheckpointError: There is no file to hash, one cannot be read, or the folder cannot be written to.
    """
    names = _files(folder)
    if not names:
        raise CheckpointError(f"{folder}: holds no *.safetensors or *.json file; give a checkpoint's folder")
    try:
        lines = [f"{digest}  {name}\n" for name, digest in _hash_all(folder, names, progress)]
        path = folder / MANIFEST_NAME
        unfinished = path.with_suffix(".new")
        unfinished.write_text("".join(lines), encoding="ascii")
        unfinished.replace(path)
    except OSError as error:
        raise CheckpointError(f"{folder}: {error}; check its files, permissions and free space") from error
    return path


def read_manifest(folder: Path) -> dict[str, str] | None:
    """Return the hash of each file by its name; None where there is no manifest.

    Raises:
        CheckpointError: It is malformed.
    """
    path = folder / MANIFEST_NAME
    if not path.exists() and not path.is_symlink():
        return None
    try:
        if not path.is_file() or path.stat().st_size > _MAX_BYTES:
            raise CheckpointError(f"{path}: no file of hashes; {_REMEDY}")
        lines = path.read_text(encoding="ascii").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path}: cannot be read ({error}); {_REMEDY}") from error
    hashes: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        match = _LINE.fullmatch(line)
        if match is None or match[2] in hashes:
            raise CheckpointError(f"{path}, line {number}: no hash and name of a file, or twice; {_REMEDY}")
        hashes[match[2]] = match[1]
    return hashes


def check_manifest(folder: Path, progress: Progress | None = None) -> list[Defect]:
    """Return every file that is not as the manifest says; none where there is no manifest.

    Raises:
        CheckpointError: The manifest is malformed.
    """
    hashes = read_manifest(folder)
    if hashes is None:
        return []
    present = _files(folder)
    defects = [Defect(name, "missing: SHA256SUMS lists it", _REMEDY) for name in hashes.keys() - set(present)]
    for name in present:
        if name not in hashes:
            remedy = "remove the file, or write the manifest anew if you trust it"
            defects.append(Defect(printable(name), "SHA256SUMS does not list it", remedy))
    try:
        listed = [name for name in present if name in hashes]
        for name, digest in _hash_all(folder, listed, progress):
            if digest != hashes[name]:
                defects.append(Defect(name, "its content is not what SHA256SUMS says", _REMEDY))
    except OSError as error:
        raise CheckpointError(f"{folder}: {error}; check its files and permissions") from error
    return sorted(defects, key=lambda defect: defect.file)


def _files(folder: Path) -> list[str]:
    """Return the names of the weights and of what says how to read them."""
    found = (path for pattern in ("*.safetensors", "*.json") for path in folder.glob(pattern))
    return sorted(path.name for path in found if path.is_file())


def _hash_all(folder: Path, names: list[str], progress: Progress | None) -> Iterator[tuple[str, str]]:
    total_bytes = sum((folder / name).stat().st_size for name in names)
    done_bytes = 0
    for name in names:
        digest = hashlib.sha256()
        with (folder / name).open("rb") as file:
            while chunk := file.read(_CHUNK_BYTES):
                digest.update(chunk)
                done_bytes += len(chunk)
                if progress is not None:
                    progress(done_bytes, total_bytes)
        yield name, digest.hexdigest()
