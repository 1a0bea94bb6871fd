"""The safetensors files of a checkpoint folder, taken together: which file holds which tensor."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

from gptoss_ray.checkpoint.defect import Defect, printable
from gptoss_ray.checkpoint.json_file import read_json_object
from gptoss_ray.checkpoint.layout import StoredTensor
from gptoss_ray.checkpoint.safetensors_file import TensorEntry, read_header
from gptoss_ray.errors import CheckpointError

INDEX_NAME = "model.safetensors.index.json"
_MAX_INDEX_BYTES = 100_000_000
_REFETCH = "fetch the file again"
_SHARD_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,199}\.safetensors")


@dataclass
class Shards:
    """Every tensor found, the file it lies in, and every structural defect met on the way."""

    paths: dict[str, Path] = field(default_factory=dict)
    entries: dict[str, TensorEntry] = field(default_factory=dict)
    defects: list[Defect] = field(default_factory=list)
    has_lost_file: bool = False


def find_shards(folder: Path, expected: list[StoredTensor] | None) -> Shards:
    """Read the headers of all shards in `folder`; compare them with what the model needs, if known."""
    shards = Shards()
    index = _read_index(folder, shards.defects)
    present = sorted(path.name for path in folder.glob("*.safetensors"))
    names = present if index is None else sorted(set(index.values()))
    if not names and not shards.defects:
        remedy = "fetch the checkpoint again"
        shards.defects.append(Defect(folder.name, "holds no *.safetensors file", remedy))
    for name in names:
        _add_shard(folder, name, shards)
    if index is not None:
        _compare_with_index(index, present, shards)
    if expected is not None:
        _compare_with_model(folder, expected, shards)
    return shards


def _read_index(folder: Path, defects: list[Defect]) -> dict[str, str] | None:
    """Return tensor → file name, only those that stay in the folder; None without an index."""
    path = folder / INDEX_NAME
    if not path.exists() and not path.is_symlink():
        return None
    try:
        weight_map = read_json_object(path, max_bytes=_MAX_INDEX_BYTES).get("weight_map")
    except CheckpointError as error:
        defects.append(Defect(INDEX_NAME, error.message.removeprefix(f"{path}: "), _REFETCH))
        return {}
    if not isinstance(weight_map, dict):
        defects.append(Defect(INDEX_NAME, "has no weight_map object", _REFETCH))
        return {}
    index = {}
    for tensor, file in weight_map.items():
        problem = _problem_of_entry(folder, file)
        if problem is None:
            index[tensor] = file
        else:
            remedy = "do not use this checkpoint unless you trust its source; fetch it again"
            defects.append(Defect(INDEX_NAME, problem, remedy, printable(tensor)))
    return index


def _problem_of_entry(folder: Path, file: object) -> str | None:
    shown = printable(repr(file))
    if isinstance(file, str) and ("/" in file or "\\" in file or file.startswith("..")):
        return f"its entry {shown} leaves the folder"
    if not isinstance(file, str) or not _SHARD_NAME.fullmatch(file):
        return f"its entry {shown} is not the name of a .safetensors file"
    if not _stays_inside(folder, folder / file):
        return f"its entry {shown} is a link that leaves the folder"
    return None


def _stays_inside(folder: Path, path: Path) -> bool:
    """Links are followed: they may lead into the folder, or from a hub snapshot to the hub's own blobs."""
    allowed = [folder.resolve()]
    for parent in folder.resolve().parents:
        # A hub cache is models--owner--name/{snapshots/<revision>/…, blobs/…}; snapshots are links to blobs.
        if parent.name == "snapshots" and parent.parent.name.startswith("models--"):
            allowed.append(parent.parent / "blobs")
    try:
        target = path.resolve()
    except (OSError, RuntimeError):  # a link to itself
        return False
    return any(target.is_relative_to(root) for root in allowed)


def _add_shard(folder: Path, name: str, shards: Shards) -> None:
    path = folder / name
    if not path.exists():
        shards.has_lost_file = True
        shards.defects.append(Defect(printable(name), "missing shard", "fetch the file"))
        return
    if not path.is_file() or not _stays_inside(folder, path):
        shards.has_lost_file = True
        problem = "is not a regular file inside the folder"
        shards.defects.append(Defect(printable(name), problem, "put the file itself into the folder"))
        return
    header = read_header(path)
    shards.has_lost_file |= bool(header.defects) and not header.entries
    shards.defects.extend(header.defects)
    for tensor, entry in header.entries.items():
        if tensor in shards.entries:
            problem = f"duplicate name: also in {shards.paths[tensor].name}"
            shards.defects.append(Defect(name, problem, "keep the tensor in one file", printable(tensor)))
        else:
            shards.paths[tensor], shards.entries[tensor] = path, entry


def _compare_with_index(index: dict[str, str], present: list[str], shards: Shards) -> None:
    remedy = "fetch index and shards of the same revision"
    reported = {defect.tensor for defect in shards.defects}
    for tensor, file in index.items():
        path = shards.paths.get(tensor)
        if path is None:
            if not shards.has_lost_file and printable(tensor) not in reported:
                problem = f"missing tensor: the index says it is in {file}"
                shards.defects.append(Defect(INDEX_NAME, problem, remedy, printable(tensor)))
        elif path.name != file:
            problem = f"the index says {file}, but it is in {path.name}"
            shards.defects.append(Defect(INDEX_NAME, problem, remedy, printable(tensor)))
    for tensor, path in shards.paths.items():
        if tensor not in index:
            shards.defects.append(Defect(path.name, "not in the index", remedy, printable(tensor)))
    for file in present:
        if file not in index.values():
            problem = "no index entry names this file"
            shards.defects.append(Defect(printable(file), problem, "remove the file or mend the index"))


def _compare_with_model(folder: Path, expected: list[StoredTensor], shards: Shards) -> None:
    reported = {defect.tensor for defect in shards.defects}
    for tensor in expected:
        entry = shards.entries.get(tensor.name)
        if entry is None:
            # What a lost file or a broken header entry took with it is not reported twice.
            if not shards.has_lost_file and tensor.name not in reported:
                remedy = "fetch the checkpoint again"
                shards.defects.append(Defect(folder.name, "missing tensor", remedy, tensor.name))
            continue
        file = shards.paths[tensor.name].name
        if entry.shape != tensor.shape:
            problem = f"wrong shape {list(entry.shape)}: config.json asks for {list(tensor.shape)}"
            remedy = "use config.json and shards of the same model"
            shards.defects.append(Defect(file, problem, remedy, tensor.name))
        if entry.dtype not in tensor.dtypes:
            problem = f"wrong dtype {entry.dtype}: supported is {' or '.join(tensor.dtypes)}"
            shards.defects.append(Defect(file, problem, "use a published checkpoint", tensor.name))
    for name in sorted(shards.entries.keys() - {tensor.name for tensor in expected}):
        remedy = "use config.json and shards of the same model"
        problem = "extra tensor: the model has none of this name"
        shards.defects.append(Defect(shards.paths[name].name, problem, remedy, printable(name)))
