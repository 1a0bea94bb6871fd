"""WeightLoader: from the tensors of a checkpoint to weights that the kernels take."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from gptoss_ray.checkpoint.weight_source import WeightSource
from gptoss_ray.kernels.kernels import Kernels, Matrix, Norm, StoredMatrix
from gptoss_ray.model.packed_store import PartStore

ReadMatrix = Callable[[], tuple[StoredMatrix, Tensor | None]]
"""Returns a matrix [N, K] and its bias [N] or none, perhaps as views of the checkpoint."""


@dataclass(frozen=True)
class WeightLoader:
    """Reads a checkpoint, packs its matrices and keeps them in a store.

    Attributes:
        reader: The checkpoint.
        kernels: What the weights are for.
        store: Where packed matrices are looked for first.
        device: Where the weights live.
    """

    reader: WeightSource
    kernels: Kernels
    store: PartStore
    device: torch.device

    def read(self, name: str, dtype: torch.dtype = torch.float32) -> Tensor:
        """Return a copy of the tensor `name`: the file's mapping is only 8-byte aligned and may vanish."""
        return self.reader.read(name).to(self.device, dtype, copy=True)

    def table(self, name: str, dtype: torch.dtype) -> Tensor:
        """Return the tensor `name`, of which single rows are looked up: a view of the file where possible."""
        return self.reader.read(name).to(self.device, dtype)

    def norm(self, name: str) -> Norm:
        """Return the norm whose weight is `name`.weight."""
        return Norm(self.read(f"{name}.weight"), self.reader.config.rms_norm_eps)

    def matrices(
        self,
        part: str,
        shapes: Mapping[str, tuple[int, int]],
        reads: Mapping[str, ReadMatrix],
        *,
        is_wide: bool = False,
    ) -> dict[str, Matrix]:
        """Return the matrices of a part of the network.

        Args:
            part: Its name, unique in the network.
            shapes: (N, K) of its matrices by name.
            reads: Of the same; called where the store does not have the part.
            is_wide: See `Kernels.pack`.
        """

        def build() -> dict[str, Tensor]:
            tensors: dict[str, Tensor] = {}
            for name, read in reads.items():
                packed = self.kernels.pack(*read(), is_wide=is_wide)
                tensors |= {f"{name}.{key}": tensor for key, tensor in packed.items()}
            # Before the store copies what was made: of the unembedding all three would take 2 GB.
            self.reader.release()
            return tensors

        tensors = self.store.get(part, build)
        return {
            name: self.kernels.matrix(_of_matrix(tensors, name), shape, is_wide=is_wide)
            for name, shape in shapes.items()
        }


def _of_matrix(tensors: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    """Return the tensors of one matrix of a part, under the names that the kernels gave them."""
    prefix = f"{name}."
    return {key.removeprefix(prefix): tensor for key, tensor in tensors.items() if key.startswith(prefix)}
