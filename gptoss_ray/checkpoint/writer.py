"""Write a checkpoint in a published layout, tensor by tensor: nothing larger than a chunk is in memory."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

import torch
from torch import Tensor

from gptoss_ray.checkpoint.layout import StoredTensor, stored_tensors
from gptoss_ray.checkpoint.model_config import Layout, ModelConfig
from gptoss_ray.checkpoint.safetensors_file import format_header
from gptoss_ray.checkpoint.shards import INDEX_NAME
from gptoss_ray.errors import CheckpointError

MAX_SHARD_BYTES = 5_000_000_000

Progress = Callable[[int, int], None]
"""Called with (bytes done, bytes in all)."""

Producer = Callable[[StoredTensor, torch.dtype], Iterable[Tensor]]
"""Yields the values of a stored tensor, in chunks of any shape, in order and in the given dtype."""


def write_tensors(
    folder: Path | str,
    config: ModelConfig,
    tensors: Mapping[str, Tensor],
    *,
    layout: Layout = "huggingface",
    dtype: torch.dtype = torch.bfloat16,
) -> None:
    """Write a model given by our names (`layout.py`); `dtype` is that of all but blocks and scales.

    KeyError for an absent tensor, ValueError for a wrong shape, CheckpointError as `write_stored`.
    """

    def produce(stored: StoredTensor, stored_dtype: torch.dtype) -> Iterable[Tensor]:
        whole = torch.cat([tensors[part.name].detach().cpu() for part in stored.parts])
        whole = whole.transpose(1, 2) if stored.is_transposed else whole
        if whole.shape != stored.shape:
            raise ValueError(
                f"{stored.name} has shape {list(whole.shape)}, the config asks for {list(stored.shape)}"
            )
        yield whole.to(stored_dtype)

    write_stored(folder, config, produce, layout=layout, dtype=dtype)


def write_stored(
    folder: Path | str,
    config: ModelConfig,
    produce: Producer,
    *,
    layout: Layout = "huggingface",
    dtype: torch.dtype = torch.bfloat16,
    max_shard_bytes: int = MAX_SHARD_BYTES,
    progress: Progress | None = None,
) -> None:
    """Write every tensor that `produce` yields, then the index, then config.json.

    Files appear under their names only when complete, and config.json last: a folder that has one is
    whole. CheckpointError if the folder already holds a checkpoint or the disk fails.
    """
    folder = Path(folder)
    document = config.to_json(layout)
    tensors = stored_tensors(config, layout)
    shards = _plan_shards(tensors, dtype, max_shard_bytes)
    total_bytes = sum(_num_bytes(tensor, dtype) for tensor in tensors)
    done_bytes = 0
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.glob("*.safetensors")) or (folder / "config.json").exists():
            raise CheckpointError(f"{folder}: already holds a checkpoint; remove it or choose another folder")
        with ExitStack() as undo:
            for name, shard in shards.items():
                with _Pending(folder / name) as file:
                    file.write(_header(shard, dtype))
                    for data in _contents(shard, dtype, produce):
                        done_bytes += file.write(data)
                        if progress is not None:
                            progress(done_bytes, total_bytes)
                undo.callback((folder / name).unlink)
            if len(shards) > 1:
                _write_json(folder / INDEX_NAME, _index(shards, total_bytes))
                undo.callback((folder / INDEX_NAME).unlink)
            _write_json(folder / "config.json", document)
            undo.pop_all()
    except OSError as error:
        problem = f"cannot be written ({error.strerror}); check space and permissions"
        raise CheckpointError(f"{folder}: {problem}") from error


def _contents(shard: list[StoredTensor], dtype: torch.dtype, produce: Producer) -> Iterator[memoryview]:
    """Yield the data of a shard in chunks."""
    for tensor in shard:
        num_bytes = 0
        for chunk in produce(tensor, _dtype_of(tensor, dtype)):
            num_bytes += chunk.nbytes
            yield chunk.contiguous().flatten().view(torch.uint8).numpy().data
        assert num_bytes == _num_bytes(tensor, dtype), (
            f"the producer of {tensor.name} yielded {num_bytes} bytes"
        )


def _index(shards: Mapping[str, list[StoredTensor]], total_bytes: int) -> dict[str, object]:
    weight_map = {tensor.name: name for name, shard in shards.items() for tensor in shard}
    return {"metadata": {"total_size": total_bytes}, "weight_map": dict(sorted(weight_map.items()))}


class _Pending:
    """A file that takes its name only when complete; after a failure nothing is left of it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")

    def __enter__(self) -> _Pending:
        self._file = self._temporary.open("wb")
        return self

    def write(self, data: bytes | memoryview) -> int:
        return self._file.write(data)

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            self._file.flush()
            os.fsync(self._file.fileno())
        self._file.close()
        if kind is None:
            self._temporary.replace(self._path)
        else:
            self._temporary.unlink(missing_ok=True)


def _plan_shards(
    tensors: list[StoredTensor], dtype: torch.dtype, max_shard_bytes: int
) -> dict[str, list[StoredTensor]]:
    """Return file name → tensors; within a file wide dtypes come first, so that each tensor is aligned."""
    groups: list[list[StoredTensor]] = [[]]
    group_bytes = 0
    for tensor in tensors:
        num_bytes = _num_bytes(tensor, dtype)
        if groups[-1] and group_bytes + num_bytes > max_shard_bytes:
            groups.append([])
            group_bytes = 0
        groups[-1].append(tensor)
        group_bytes += num_bytes
    names = ["model.safetensors"]
    if len(groups) > 1:
        count = len(groups)
        names = [f"model-{number:05d}-of-{count:05d}.safetensors" for number in range(1, count + 1)]
    return {
        name: sorted(group, key=lambda tensor: -_dtype_of(tensor, dtype).itemsize)
        for name, group in zip(names, groups, strict=True)
    }


def _header(shard: list[StoredTensor], dtype: torch.dtype) -> bytes:
    tensors = [(tensor.name, _dtype_of(tensor, dtype), tensor.shape) for tensor in shard]
    return format_header(tensors, {"format": "pt"})


def _dtype_of(tensor: StoredTensor, dtype: torch.dtype) -> torch.dtype:
    return torch.uint8 if tensor.dtypes == ("U8",) else dtype


def _num_bytes(tensor: StoredTensor, dtype: torch.dtype) -> int:
    return math.prod(tensor.shape) * _dtype_of(tensor, dtype).itemsize


def _write_json(path: Path, document: Mapping[str, object]) -> None:
    with _Pending(path) as file:
        file.write(json.dumps(document, indent=2).encode() + b"\n")
