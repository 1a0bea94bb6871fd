"""Parts of packed weights as a test stores them, and a process that stores many."""

from __future__ import annotations

from multiprocessing.synchronize import Barrier
from pathlib import Path

import torch

from gptoss_ray.model.packed_identity import PackedIdentity
from gptoss_ray.model.packed_store import PackedStore

IDENTITY = PackedIdentity("/some/checkpoint", fingerprint="f" * 64, packing_version="1", dense_format="int8")


def tensors_of_a_part(seed: int = 0) -> dict[str, torch.Tensor]:
    """Return tensors of every dtype that can be stored, of awkward shapes."""
    generator = torch.Generator().manual_seed(seed)
    numbers = torch.randint(-100, 100, (3, 5, 7), generator=generator)
    return {
        "codes": numbers.to(torch.uint8),
        "scales": numbers[0].to(torch.float16),
        "bias": numbers[0, 0].to(torch.float32) / 3,
        "weight": numbers.to(torch.bfloat16),
        "signed": numbers.to(torch.int8).transpose(0, 2),
        "places": numbers[:, 0].to(torch.int32),
        "counts": numbers[:, 1],
        "one": torch.tensor(2.5),
        "none": torch.empty(0, 4, dtype=torch.bfloat16),
    }


def are_equal(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> bool:
    """Whether names, dtypes, shapes and values are the same."""
    return found.keys() == expected.keys() and all(
        found[name].dtype == tensor.dtype and torch.equal(found[name], tensor)
        for name, tensor in expected.items()
    )


def fill(folder: Path, num_parts: int, barrier: Barrier) -> None:
    """Get `part.0`, `part.1` … as soon as all processes are ready; the process fails if one is wrong."""
    torch.set_num_threads(1)
    store = PackedStore.open(folder, IDENTITY, {f"part.{number}": 1 for number in range(num_parts)})
    barrier.wait()
    for number in range(num_parts):
        expected = tensors_of_a_part(seed=number)
        assert are_equal(store.get(f"part.{number}", lambda expected=expected: expected), expected)
