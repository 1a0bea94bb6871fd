"""What a checkpoint weighs: bytes by kind of tensor, and bytes that one decoded token must read."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from gptoss_ray.checkpoint.reader import CheckpointReader

KINDS = ("attention", "experts", "gates and norms", "embeddings")


@dataclass(frozen=True)
class Summary:
    """Sizes in bytes; `shard_bytes` is file name → size."""

    shard_bytes: dict[str, int]
    bytes_by_kind: dict[str, int]
    num_parameters: int
    bytes_per_token: int


def summarize(reader: CheckpointReader) -> Summary:
    """Weigh an open checkpoint without reading a value.

    A decoded token reads every matrix once, but of the experts only those chosen and of the embedding one
    row: bytes_per_token over the memory bandwidth bounds the speed of a single stream.
    """
    config = reader.config
    bytes_by_kind = dict.fromkeys(KINDS, 0)
    num_parameters = bytes_per_token = 0
    for name in reader.names():
        num_bytes = reader.num_bytes_of(name)
        kind = _kind(name)
        bytes_by_kind[kind] += num_bytes
        if kind == "experts":
            bytes_per_token += num_bytes * config.num_experts_per_token // config.num_experts
        else:
            bytes_per_token += num_bytes // config.vocab_size if name == "embedding.weight" else num_bytes
        num_parameters += _num_parameters(name, num_bytes, reader.dtype_of(name))
    return Summary(reader.shard_bytes(), bytes_by_kind, num_parameters, bytes_per_token)


def _kind(name: str) -> str:
    if ".experts." in name:
        return "experts"
    if ".attention." in name and ".norm." not in name:
        return "attention"
    return "embeddings" if "embedding" in name else "gates and norms"


def _num_parameters(name: str, num_bytes: int, dtype: torch.dtype) -> int:
    if name.endswith(".scales"):
        return 0
    return num_bytes * 2 if name.endswith(".blocks") else num_bytes // dtype.itemsize
