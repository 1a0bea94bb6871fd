"""PackedStore: weights in the layout of the kernels, packed once, then mapped by every process and start.

`folder/<identity>/<part>.safetensors`, a part being what is loaded at once: an expert, a layer's
attention, the unembedding. Several processes may fill a store together, without locks: a file takes its
name only when complete, and all write the same bytes, so the last one wins. Mapped pages are shared by
all processes of the host and with the kernel's cache of the files; treat the tensors as read-only.

    store = PackedStore.open(folder, identity, {"unembedding": 1_158_266_880})
    with store.reading_ahead(["unembedding"]):
        tensors = store.get("unembedding", build)
"""

from __future__ import annotations

import json
import logging
import os
import re
import secrets
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Protocol

from torch import Tensor

from gptoss_ray.errors import ConfigError
from gptoss_ray.huge_memory import HUGE_PAGE_BYTES, huge_memory
from gptoss_ray.model.mapped_memory import FileMapper, forget_file
from gptoss_ray.model.packed_file import ALIGNMENT, DamagedPartError, map_part, write_part
from gptoss_ray.model.packed_identity import PackedIdentity

_LOG = logging.getLogger(__name__)

Build = Callable[[], Mapping[str, Tensor]]
"""Makes the tensors of a part."""

_NAME = re.compile(r"[a-z0-9_]+(\.[a-z0-9_]+)*")
_SUFFIX = ".safetensors"
_TEMPORARY_SUFFIX = ".tmp"
_INDEX_NAME = "index.json"
_ABOUT = (
    "Weights packed by gptoss_ray, made again when missing: this folder may be deleted while no server runs."
)
_HEADER_BYTES = 4096  # of a file, more than it has
_ABANDONED_AFTER_S = 3600
# One thread waits for one disk request at a time; a few keep a fast disk busy.
_NUM_READERS = 4


class PartStore(Protocol):
    """Where the parts of a model come from."""

    def get(self, name: str, build: Build) -> dict[str, Tensor]:
        """Return the tensors of a part, calling `build` if they are not stored."""

    def reading_ahead(self, names: Sequence[str]) -> AbstractContextManager[None]:
        """Read these parts, which `get` will be asked for in this order, while the block runs."""


class InMemoryStore:
    """Stores nothing: every part is built and belongs to its caller.

    Args:
        huge_pages: Whether to copy what is built into huge pages, for kernels that read it once a step.
    """

    def __init__(self, *, huge_pages: bool = False) -> None:
        self._huge_pages = huge_pages

    def get(self, name: str, build: Build) -> dict[str, Tensor]:  # noqa: ARG002
        """Return what `build` makes."""
        tensors = dict(build())
        return _in_huge_pages(tensors) if self._huge_pages else tensors

    def reading_ahead(self, names: Sequence[str]) -> AbstractContextManager[None]:  # noqa: ARG002
        """Do nothing."""
        return nullcontext()


class PackedStore:
    """The files of one identity. All methods may be called by several threads.

    Attributes:
        folder: Where they are.
    """

    def __init__(self, folder: Path, identity: PackedIdentity) -> None:
        self.folder = folder
        self._identity = identity.digest
        self._mapper = FileMapper()
        self._ahead: dict[str, Future[dict[str, Tensor]]] = {}

    @classmethod
    def open(cls, folder: Path | str, identity: PackedIdentity, part_bytes: Mapping[str, int]) -> PackedStore:
        """Open the store of an identity and make sure that what is missing can be written.

        Args:
            folder: Of all stores; it is created if need be.
            identity: What the parts are made of.
            part_bytes: For every part that will be asked for, about how many bytes its tensors have.

        Raises:
            ConfigError: Parts are missing and the folder cannot be written, or has not enough room.
            ValueError: A part's name has other characters than a-z, 0-9, `_` and `.`.
        """
        store = cls(Path(folder).expanduser().absolute() / identity.digest[:16], identity)
        missing = [name for name in part_bytes if not store._path(name).is_file()]
        missing_bytes = sum(part_bytes[name] + _HEADER_BYTES for name in missing)
        if missing:
            store._prepare(identity, missing_bytes)
        _LOG.info(
            "packed_weights folder=%s num_parts=%d num_missing=%d missing_bytes=%d",
            *(store.folder, len(part_bytes), len(missing), missing_bytes),
        )
        return store

    def get(self, name: str, build: Build) -> dict[str, Tensor]:
        """Return the tensors of a part, each on 64 bytes, views of one file that is mapped and read in.

        Args:
            name: Of the part.
            build: Called if its file is missing or damaged; what it makes is written to the file.

        Raises:
            ConfigError: The file cannot be written.
            ValueError: The part, or a tensor that `build` made, has a name or a dtype that cannot be stored.
        """
        tensors = self._take_ahead(name) or self._load(name)
        return self._save(name, build()) if tensors is None else tensors

    @contextmanager
    def reading_ahead(self, names: Sequence[str]) -> Iterator[None]:
        """Map and read in these parts in the order given, in threads, while the block runs."""
        executor = ThreadPoolExecutor(_NUM_READERS, "packed-weights")
        try:
            for name in names:
                self._ahead[name] = executor.submit(self._map, name)
            yield
        finally:
            executor.shutdown(wait=False, cancel_futures=True)
            for name in names:
                self._ahead.pop(name, None)

    def _take_ahead(self, name: str) -> dict[str, Tensor] | None:
        """Return a part that was read ahead; None if it was not, or was not there or damaged then."""
        ahead = self._ahead.pop(name, None)
        if ahead is None or ahead.cancel():  # one that has not begun is not waited for behind others
            return None
        try:
            return ahead.result()
        except (DamagedPartError, OSError):  # by now another process may have made it
            return None

    def _load(self, name: str) -> dict[str, Tensor] | None:
        """Return a part, None if its file is missing or damaged."""
        try:
            return self._map(name)
        except FileNotFoundError:
            return None
        except (DamagedPartError, OSError) as error:
            problem = f"{error}; it is packed again"
            _LOG.warning("packed_part_damaged file=%s problem=%r", self._path(name), problem)
            return None

    def _map(self, name: str) -> dict[str, Tensor]:
        return map_part(self._mapper, self._path(name), name, self._identity)

    def _save(self, name: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Write a part and return it as the file has it."""
        path = self._path(name)
        temporary = path.with_name(f".{name}.{os.getpid()}.{secrets.token_hex(4)}{_TEMPORARY_SUFFIX}")
        try:
            file = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
            try:
                write_part(file, tensors, name, self._identity)
                forget_file(file)  # pages that are written are small; those that are read come in huge ones
            finally:
                os.close(file)
            # Under the temporary name nobody replaces it meanwhile.
            mapped = map_part(self._mapper, temporary, name, self._identity, check_contents=False)
            temporary.replace(path)
        except DamagedPartError as error:
            raise self._cannot_be_written(str(error)) from None
        except OSError as error:
            raise self._cannot_be_written(error.strerror or str(error)) from None
        finally:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
        return mapped

    def _path(self, name: str) -> Path:
        if not _NAME.fullmatch(name):
            raise ValueError(f"part name {name!r} has other characters than a-z, 0-9, _ and single dots")
        return self.folder / f"{name}{_SUFFIX}"

    def _prepare(self, identity: PackedIdentity, missing_bytes: int) -> None:
        """Write the index, which shows that the folder takes files, and check the room."""
        index = {"about": _ABOUT, **asdict(identity), "identity": identity.digest}
        temporary = self.folder / f".{_INDEX_NAME}.{os.getpid()}.{secrets.token_hex(4)}{_TEMPORARY_SUFFIX}"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._remove_abandoned()
            temporary.write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
            temporary.replace(self.folder / _INDEX_NAME)
            free_bytes = shutil.disk_usage(self.folder).free
        except OSError as error:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise self._cannot_be_written(error.strerror or str(error)) from None
        if free_bytes < missing_bytes:
            raise self._cannot_be_written(
                f"{missing_bytes / 1e9:.1f} GB are to be written and {free_bytes / 1e9:.1f} GB are free"
            )

    def _remove_abandoned(self) -> None:
        """Remove unfinished files of processes that were killed; one that is written is young."""
        for path in self.folder.glob(f".*{_TEMPORARY_SUFFIX}"):
            with suppress(OSError):
                if time.time() - path.stat().st_mtime > _ABANDONED_AFTER_S:
                    path.unlink()

    def _cannot_be_written(self, problem: str) -> ConfigError:
        others = [path for path in self.folder.parent.glob("*/" + _INDEX_NAME) if path.parent != self.folder]
        remedy = "make room and allow writing there, or set packed_weights to another folder, or leave it out"
        if others:
            remedy += f"; {len(others)} other folders in {self.folder.parent} may be deleted if not in use"
        return ConfigError(
            f"packed_weights: {self.folder} cannot hold the packed weights: {problem}; {remedy}.",
            param="packed_weights",
        )


def _in_huge_pages(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return copies side by side in huge pages, each on 64 bytes; what is small stays where it is."""
    num_bytes = sum(_aligned(tensor.nbytes) for tensor in tensors.values())
    if num_bytes < HUGE_PAGE_BYTES or any(tensor.device.type != "cpu" for tensor in tensors.values()):
        return dict(tensors)
    memory = huge_memory(num_bytes)
    copies = {}
    position = 0
    for name, tensor in tensors.items():
        place = memory[position : position + tensor.nbytes]
        copies[name] = place.view(tensor.dtype).view(tensor.shape).copy_(tensor)
        position += _aligned(tensor.nbytes)
    return copies


def _aligned(num_bytes: int) -> int:
    return -(-num_bytes // ALIGNMENT) * ALIGNMENT
