"""Watches the calls of native kernels: the time inside them, and how many experts they are asked for.

What is not inside is Python, torch and the engine.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from gptoss_ray.bench.watched_calls import watching_calls
from gptoss_ray.kernels.native.library import CLayer, NativeLibrary

_WATCHED = (
    "gr_linear",
    "gr_norm_linear",
    "gr_linear_add",
    "gr_attention",
    "gr_attention_layer",
    "gr_gate",
    "gr_experts",
    "gr_combine",
    "gr_layers",
)


class NativeCalls:
    """What the calls since the last reading took, and the experts that got rows in them."""

    def __init__(self) -> None:
        self._seconds = 0.0
        self._num_experts: list[int] = []
        self._layers: tuple[int, int] | None = None

    def add(self, name: str, args: tuple[Any, ...], seconds: float) -> None:
        """Count one call."""
        self._seconds += seconds
        # Of the arguments as src/api.h has them.
        if name == "gr_experts":
            self._num_experts.append(_num_busy(args[3], args[4]))
        elif name == "gr_layers":
            self._layers = (args[1], args[2])  # looked at later, so that it does not count as outside

    def read(self) -> tuple[float, float]:
        """Return (seconds inside calls, experts a layer on average), and begin anew."""
        if self._layers is not None:
            address, count = self._layers
            layers = (CLayer * count).from_address(address)
            self._num_experts += [_num_busy(layer.num_experts, layer.num_rows) for layer in layers]
        num_layers = max(1, len(self._num_experts))
        reading = self._seconds, sum(self._num_experts) / num_layers
        self._seconds, self._num_experts, self._layers = 0.0, [], None
        return reading


def _num_busy(num_experts: int, address: int) -> int:
    """Return how many of the counts at an address, int64 each, are not 0."""
    return sum(count != 0 for count in (ctypes.c_int64 * num_experts).from_address(address))


@contextmanager
def watching_native_calls(library: NativeLibrary) -> Iterator[NativeCalls]:
    """Watch every call of a kernel of `library` that is made through its `functions` inside the block.

    ctypes' own work on the arguments, a microsecond or two, counts as inside.
    """
    calls = NativeCalls()
    with watching_calls(library.functions, _WATCHED, calls.add):
        yield calls
