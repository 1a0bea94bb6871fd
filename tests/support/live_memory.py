"""What torch holds: bytes of the tensors that an object owns, and the peak of what a block of code makes."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


def tensors_of(owner: object, seen: set[int] | None = None) -> Iterator[torch.Tensor]:
    """Yield every tensor that can be reached through the attributes, items and slots of `owner`."""
    seen = set() if seen is None else seen
    if id(owner) in seen or isinstance(owner, type | torch.dtype | torch.device):
        return
    seen.add(id(owner))
    if isinstance(owner, torch.Tensor):
        yield owner
    elif isinstance(owner, dict):
        for value in owner.values():
            yield from tensors_of(value, seen)
    elif isinstance(owner, tuple | list):
        for value in owner:
            yield from tensors_of(value, seen)
    elif hasattr(owner, "__dict__"):
        yield from tensors_of(vars(owner), seen)


def owned_bytes(owner: object) -> int:
    """Bytes of the distinct storages that `owner` reaches."""
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage() for tensor in tensors_of(owner)}
    return sum(storage.nbytes() for storage in storages.values())


class PeakMemory(TorchDispatchMode):
    """Within `with`: the most bytes that tensors made there held at one time, what `owner` has aside."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # else the first operation imports the compiler, which takes seconds

    def __init__(self, owner: object) -> None:
        super().__init__()
        self.peak_bytes = 0
        self._owned = {tensor.untyped_storage().data_ptr() for tensor in tensors_of(owner)}
        self._live: dict[int, tuple[StorageWeakRef, int]] = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor) and leaf.untyped_storage().data_ptr() not in self._owned:
                reference = StorageWeakRef(leaf.untyped_storage())
                self._live[reference.cdata] = (reference, leaf.untyped_storage().nbytes())
        self._live = {key: entry for key, entry in self._live.items() if not entry[0].expired()}
        self.peak_bytes = max(self.peak_bytes, sum(size for _, size in self._live.values()))
        return result
