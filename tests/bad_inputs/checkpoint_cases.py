"""What may be wrong with a checkpoint on disk, and which file and tensor are named."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SHARD = "model.safetensors"
INDEX = "model.safetensors.index.json"


@dataclass(frozen=True)
class CheckpointCase:
    """A change of a sound folder, the file that is named then, and something that is said of it."""

    name: str
    spoil: Callable[[Path], Any]
    file: str
    said: str


def _header(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    path = folder / SHARD
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    change(header)
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + length :])


def _tensor(**fields: Any) -> Callable[[Path], None]:
    def change(header: dict[str, Any]) -> None:
        header[next(name for name in header if name != "__metadata__")] |= fields

    return lambda folder: _header(folder, change)


def _overlap(folder: Path) -> None:
    def change(header: dict[str, Any]) -> None:
        spans: dict[int, list[str]] = {}
        for name in header.keys() - {"__metadata__"}:
            begin, end = header[name]["data_offsets"]
            spans.setdefault(end - begin, []).append(name)
        first, second, *_ = next(names for size, names in spans.items() if size and len(names) > 1)
        header[second]["data_offsets"] = header[first]["data_offsets"]

    _header(folder, change)


def _write(name: str, content: bytes) -> Callable[[Path], Any]:
    return lambda folder: (folder / name).write_bytes(content)


def _cut(num_bytes: int) -> Callable[[Path], Any]:
    return lambda folder: os.truncate(folder / SHARD, num_bytes)


def _replace_by_link(name: str, target: str) -> Callable[[Path], Any]:
    def spoil(folder: Path) -> None:
        (folder / name).unlink()
        (folder / name).symlink_to(target)

    return spoil


def _replace_by_pipe(name: str) -> Callable[[Path], Any]:
    def spoil(folder: Path) -> None:
        (folder / name).unlink()
        os.mkfifo(folder / name)

    return spoil


def _index(target: str) -> Callable[[Path], Any]:
    return _write(INDEX, json.dumps({"weight_map": {"a": target}}).encode())


def _config(**fields: Any) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | fields))

    return spoil


CHECKPOINT_CASES = [
    CheckpointCase("no shard", lambda folder: (folder / SHARD).unlink(), "", "holds no *.safetensors file"),
    CheckpointCase("an empty shard", _cut(0), SHARD, "too short for a header"),
    CheckpointCase("a shard cut in its header", _cut(100), SHARD, "truncated"),
    CheckpointCase("a shard cut in its data", _cut(20_000), SHARD, "truncated"),
    CheckpointCase(
        "a header of a terabyte",
        _write(SHARD, (1 << 40).to_bytes(8, "little") + b"{}"),
        SHARD,
        "the limit is",
    ),
    CheckpointCase(
        "a header of garbage", _write(SHARD, (8).to_bytes(8, "little") + b"\xff" * 8), SHARD, "not UTF-8"
    ),
    CheckpointCase(
        "a header of 50,000 lists",
        _write(SHARD, (50_000).to_bytes(8, "little") + b"[" * 50_000),
        SHARD,
        "nested too deeply",
    ),
    CheckpointCase("two tensors in one place", _overlap, SHARD, "overlap"),
    CheckpointCase("a tensor of a petabyte", _tensor(shape=[1 << 50]), SHARD, "its offsets span"),
    CheckpointCase("a tensor below size 0", _tensor(shape=[-1]), SHARD, "bad shape"),
    CheckpointCase("a tensor in a thousand dimensions", _tensor(shape=[1] * 1000), SHARD, "bad shape"),
    CheckpointCase("a tensor of no type", _tensor(dtype="pickle"), SHARD, "unknown dtype"),
    CheckpointCase(
        "a tensor that ends before it begins", _tensor(data_offsets=[64, 0]), SHARD, "out-of-range"
    ),
    CheckpointCase("a tensor beyond the file", _tensor(data_offsets=[0, 1 << 70]), SHARD, "out-of-range"),
    CheckpointCase(
        "a link out of the folder", _replace_by_link(SHARD, "/etc/passwd"), SHARD, "not a regular file inside"
    ),
    CheckpointCase("a link to itself", _replace_by_link(SHARD, SHARD), SHARD, "missing shard"),
    CheckpointCase("a pipe for a shard", _replace_by_pipe(SHARD), SHARD, "not a regular file inside"),
    CheckpointCase(
        "a pipe for the config", _replace_by_pipe("config.json"), "config.json", "not a regular file"
    ),
    CheckpointCase("an index out of the folder", _index("../../etc/passwd"), INDEX, "leaves the folder"),
    CheckpointCase(
        "an index of pickles", _index("pytorch_model.bin"), INDEX, "not the name of a .safetensors"
    ),
    CheckpointCase("an index that is a list", _write(INDEX, b"[]"), INDEX, "not an object"),
    CheckpointCase("a config of garbage", _write("config.json", b"\0\xff"), "config.json", "not UTF-8"),
    CheckpointCase(
        "a config with a key twice", _write("config.json", b'{"a": 1, "a": 2}'), "config.json", "twice"
    ),
    CheckpointCase(
        "a config of no number", _write("config.json", b'{"a": NaN}'), "config.json", "NaN is not"
    ),
    CheckpointCase("a billion layers", _config(num_hidden_layers=10**9), "config.json", "num_hidden_layers"),
    CheckpointCase("layers below 0", _config(num_hidden_layers=-1), "config.json", "num_hidden_layers"),
    CheckpointCase("code of its own", _config(auto_map={"AutoModel": "evil.Model"}), "", ""),
]
