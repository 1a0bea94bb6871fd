"""verify_checkpoint: every defect of a checkpoint folder, each with its file and tensor."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from gptoss_ray.checkpoint.defect import Defect, printable
from gptoss_ray.checkpoint.layout import stored_tensors
from gptoss_ray.checkpoint.manifest import MANIFEST_NAME, check_manifest
from gptoss_ray.checkpoint.model_config import ModelConfig, read_layout
from gptoss_ray.checkpoint.safetensors_file import MappedFile, TensorEntry
from gptoss_ray.checkpoint.shards import Shards, find_shards
from gptoss_ray.checkpoint.tokenizer_check import check_tokenizer
from gptoss_ray.errors import CheckpointError

__all__ = ["Defect", "verify_checkpoint"]

_CHUNK_BYTES = 1 << 26
_NAN_SCALE = 255


def verify_checkpoint(
    folder: Path | str, *, fast: bool = False, progress: Callable[[int, int], None] | None = None
) -> list[Defect]:
    """Return all defects of the checkpoint in `folder`, an empty list for a sound one.

    Checks config.json, index, headers, the set of tensors with shapes and dtypes, and the tokenizer; unless
    `fast`, also that every value is finite, and every file as the manifest says, if there is one. `progress`
    is called with (bytes done, bytes in all), for values and then for files.
    """
    folder = Path(folder)
    try:
        config = ModelConfig.from_folder(folder)
    except CheckpointError as error:
        problem = error.message.removeprefix(f"{folder / 'config.json'}: ")
        defect = Defect("config.json", problem, "use the config.json that was published with these weights")
        return [defect, *find_shards(folder, None).defects]
    shards = find_shards(folder, stored_tensors(config, read_layout(folder)))
    defects = shards.defects + check_tokenizer(folder, config)
    return defects if fast else defects + _check_values(shards, progress) + _check_files(folder, progress)


def _check_files(folder: Path, progress: Callable[[int, int], None] | None) -> list[Defect]:
    try:
        return check_manifest(folder, progress)
    except CheckpointError as error:
        return [Defect(MANIFEST_NAME, error.message, "write it anew from files that you trust")]


def _check_values(shards: Shards, progress: Callable[[int, int], None] | None) -> list[Defect]:
    """Every code of an e2m1 block is a number: only scales and wide values can be wrong."""
    checked = [entry for entry in shards.entries.values() if _bad_values(entry) is not None]
    total_bytes = sum(entry.end - entry.begin for entry in checked)
    done_bytes = 0
    defects = []
    for name, path in shards.paths.items():
        entry = shards.entries[name]
        is_bad = _bad_values(entry)
        if is_bad is None:
            continue
        problem = _first_bad_value(MappedFile(path), entry, is_bad)
        if problem is not None:
            defects.append(Defect(path.name, problem, "fetch the file again", printable(name)))
        done_bytes += entry.end - entry.begin
        if progress is not None:
            progress(done_bytes, total_bytes)
    return defects


def _bad_values(entry: TensorEntry) -> Callable[[Tensor], Tensor] | None:
    if entry.dtype in ("BF16", "F32"):
        return lambda values: ~torch.isfinite(values)
    if entry.dtype == "U8" and entry.name.endswith("scales"):
        return lambda values: values == _NAN_SCALE
    return None


def _first_bad_value(file: MappedFile, entry: TensorEntry, is_bad: Callable[[Tensor], Tensor]) -> str | None:
    if entry.begin == entry.end or not entry.shape:
        return None  # the model has no such tensor: reported already
    rows_per_chunk = max(1, _CHUNK_BYTES * entry.shape[0] // (entry.end - entry.begin))
    for first_row in range(0, entry.shape[0], rows_per_chunk):
        values = file.read(entry, first_row, min(rows_per_chunk, entry.shape[0] - first_row))
        bad = is_bad(values)
        if bad.any():
            position = torch.nonzero(bad)[0].tolist()
            found = values[tuple(position)].item()
            meaning = "the NaN of the e8m0 format" if entry.dtype == "U8" else "not finite"
            return f"its value at {[first_row + position[0], *position[1:]]} is {found}, {meaning}"
    return None
