"""Drawing on the device: what a row needs to be drawn there, and who draws.

What a request asks for beyond it (a grammar, penalties, biases, log probabilities) is drawn on the host.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

NO_TOKEN = -1
"""Drawn from a row whose largest logit is not finite."""


@dataclass(frozen=True)
class DrawRows:
    """How each of R rows is drawn, on the device.

    Attributes:
        uniforms: float64 [R] in [0, 1), keyed by the request's seed, choice and position.
        temperatures: float32 [R]; 0 is greedy.
        top_ks: int64 [R]; 0 keeps all.
        top_ps: float32 [R]; 1 keeps all.
        min_ps: float32 [R]; 0 keeps all.
    """

    uniforms: Tensor
    temperatures: Tensor
    top_ks: Tensor
    top_ps: Tensor
    min_ps: Tensor


class DeviceSampler(Protocol):
    """Draws without the host: nothing waits, and no shape depends on a value, so that a graph can hold it."""

    def draw(self, logits: Tensor, rows: DrawRows) -> Tensor:
        """Return a token id a row, int64 [R], or `NO_TOKEN`.

        As `engine/draw.py` does, but for the rounding of sums; a row's token depends on that row alone.

        Args:
            logits: float32 [R, vocab], may be overwritten.
            rows: How.
        """
        ...
