"""WeightSource: what a network is loaded from; files of a checkpoint, or weights made up for measuring."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from gptoss_ray.checkpoint.model_config import ModelConfig


class WeightSource(Protocol):
    """Tensors by the names of `layout.py`."""

    @property
    def config(self) -> ModelConfig:
        """Shape of the network."""
        ...

    def has(self, name: str) -> bool:
        """Whether there is a tensor (experts are either `.blocks` and `.scales` or `.weight`)."""
        ...

    def read(self, name: str, rows: slice | None = None) -> Tensor:
        """Return a tensor, or a range of its first dimension, to be copied and not written to."""
        ...

    def release(self) -> None:
        """Let go of memory behind tensors that were read; they stay valid."""
        ...
