"""Drawing on the device: what a row asks of its draw there, and who draws.

What a request asks for beyond it (a grammar, penalties, biases, log probabilities) is drawn on the host.
"""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

NO_TOKEN = -1
"""Drawn from a row whose largest logit is not finite."""


class DrawInputs(Protocol):
    """What rows [L] ask of their draws, on the device."""

    @property
    def temperature(self) -> Tensor:
        """float32; 0 is greedy."""
        ...

    @property
    def top_k(self) -> Tensor:
        """int32; 0 is off."""
        ...

    @property
    def top_p(self) -> Tensor:
        """float64; 1 is off."""
        ...

    @property
    def min_p(self) -> Tensor:
        """float32; 0 is off."""
        ...

    @property
    def uniform(self) -> Tensor:
        """float64 in [0, 1): `engine.draw.keyed_uniform` of the row."""
        ...


class DeviceSampler(Protocol):
    """Draws without the host: nothing waits, and no shape depends on a value, so that a graph can hold it."""

    def draw(self, logits: Tensor, inputs: DrawInputs) -> Tensor:
        """Return a token id a row, int64 [L], or `NO_TOKEN`; ids that are suppressed are never drawn.

        As `engine/draw.py` does, but for the rounding of sums; a row's token depends on that row alone.

        Args:
            logits: float32 [L, vocab], contiguous.
            inputs: Of the same rows.
        """
        ...
