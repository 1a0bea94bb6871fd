"""A checkpoint of random weights that are made on the device when they are read: nothing is on disk."""

from __future__ import annotations

import hashlib
import math

import torch
from torch import Tensor

from gptoss_ray.checkpoint.layout import canonical_shapes
from gptoss_ray.checkpoint.model_config import ModelConfig
from gptoss_ray.checkpoint.synthetic import deviation, scale_exponent


class DeviceCheckpoint:
    """See `WeightSource`. The same seed gives the same weights on the same kind of device.

    Args:
        config: Shape of the network.
        device: Where tensors are made.
        seed: Of all of them.
    """

    def __init__(self, config: ModelConfig, device: torch.device, seed: int = 0) -> None:
        self.config = config
        self._device = device
        self._seed = seed
        self._shapes = canonical_shapes(config)

    def has(self, name: str) -> bool:
        """See `WeightSource`."""
        return name in self._shapes

    def read(self, name: str, rows: slice | None = None) -> Tensor:
        """See `WeightSource`; each range of rows is drawn for itself: no more is made than is asked."""
        shape = self._shapes[name]
        start, stop, _ = (rows or slice(None)).indices(shape[0])
        shape = (stop - start, *shape[1:])
        digest = hashlib.sha256(f"{self._seed}/{name}/{start}".encode()).digest()
        generator = torch.Generator(self._device).manual_seed(int.from_bytes(digest[:7], "little"))
        if name.endswith(".blocks"):
            return self._integers(0, 256, shape, generator)
        if name.endswith(".scales"):
            exponent = scale_exponent(deviation(name, self.config))
            return self._integers(exponent - 1, exponent + 1, shape, generator)
        values = torch.empty(math.prod(shape), dtype=torch.bfloat16, device=self._device)
        mean = 1.0 if name.endswith("norm.weight") else 0.0
        return values.normal_(mean, deviation(name, self.config), generator=generator).view(shape)

    def release(self) -> None:
        """See `WeightSource`; nothing is held."""

    def _integers(self, low: int, high: int, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        return torch.randint(low, high, shape, dtype=torch.uint8, device=self._device, generator=generator)
