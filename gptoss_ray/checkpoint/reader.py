"""CheckpointReader: the tensors of a checkpoint under our names, sliced straight from the mapped files."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from gptoss_ray.checkpoint.fingerprint import fingerprint
from gptoss_ray.checkpoint.hub import resolve_folder
from gptoss_ray.checkpoint.layout import Part, StoredTensor, stored_tensors
from gptoss_ray.checkpoint.model_config import Layout, ModelConfig, read_layout
from gptoss_ray.checkpoint.safetensors_file import TORCH_DTYPES, MappedFile
from gptoss_ray.checkpoint.shards import Shards, find_shards


class CheckpointReader:
    """Reads tensors by the names of `layout.py`, whichever layout is on disk.

    Tensors are views of the memory-mapped file: treat them as read-only.
    """

    def __init__(self, folder: Path, config: ModelConfig, layout: Layout, shards: Shards) -> None:
        self.folder = folder
        self.config = config
        self.layout = layout
        self.num_bytes_read = 0
        self._shards = shards
        self._maps: dict[Path, MappedFile] = {}
        self._sources: dict[str, tuple[StoredTensor, Part]] = {
            part.name: (tensor, part) for tensor in stored_tensors(config, layout) for part in tensor.parts
        }

    @classmethod
    def open(cls, source: str | Path, *, layout: Layout = "huggingface") -> CheckpointReader:
        """Open a folder, a hub id or `demo`; CheckpointError names file and tensor of the first defect.

        All headers are checked here, so that a corrupt checkpoint never starts to load. `layout` only
        says which files of a hub repository to fetch; a folder tells its own.
        """
        folder = resolve_folder(source, layout=layout)
        config = ModelConfig.from_folder(folder)
        found = read_layout(folder)
        shards = find_shards(folder, stored_tensors(config, found))
        if shards.defects:
            raise shards.defects[0].to_error()
        return cls(folder, config, found, shards)

    def names(self) -> list[str]:
        """Return our names of all tensors, in the order of the network."""
        return list(self._sources)

    def has(self, name: str) -> bool:
        """Whether the checkpoint holds a tensor (experts are either `.blocks` and `.scales` or `.weight`)."""
        return name in self._sources

    def num_bytes_of(self, name: str) -> int:
        """Return a tensor's size on disk."""
        stored, part = self._sources[name]
        entry = self._shards.entries[stored.name]
        return (entry.end - entry.begin) // entry.shape[0] * part.num_rows

    def dtype_of(self, name: str) -> torch.dtype:
        """Return the dtype that `read` will return."""
        return TORCH_DTYPES[self._shards.entries[self._sources[name][0].name].dtype]

    def shard_bytes(self) -> dict[str, int]:
        """Return the size of every file, by name."""
        return {path.name: path.stat().st_size for path in sorted(set(self._shards.paths.values()))}

    def read(self, name: str, rows: slice | None = None) -> Tensor:
        """Return a tensor, or a range of its first dimension, touching only those bytes of the file.

        KeyError for an unknown name, ValueError for a stepped slice.
        """
        stored, part = self._sources[name]
        start, stop, step = (rows or slice(None)).indices(part.num_rows)
        if step != 1:
            raise ValueError(f"rows must be a contiguous range, not {rows}")
        entry = self._shards.entries[stored.name]
        file = self._map(self._shards.paths[stored.name])
        tensor = file.read(entry, part.first_row + start, max(stop - start, 0))
        self.num_bytes_read += tensor.nbytes
        return tensor.transpose(1, 2).contiguous() if stored.is_transposed else tensor

    def release(self) -> None:
        """Drop the resident pages of the mapped files, for instance once their tensors were copied.

        Views that `read` returned stay valid: their pages are read again when touched. What was written
        into a view, against its contract, is lost. Does nothing outside Linux.
        """
        for file in self._maps.values():
            file.release()

    def fingerprint(self) -> str:
        """Return a hash that tells this checkpoint from others and from a changed one (fingerprint.py)."""
        return fingerprint(self.folder, self._shards)

    def _map(self, path: Path) -> MappedFile:
        if path not in self._maps:
            self._maps[path] = MappedFile(path)
        return self._maps[path]
