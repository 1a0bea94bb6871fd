"""How far a rank is with its start, as others may ask while it loads."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LoadProgress:
    """A stage of a rank's start (`importing`, `loading`, `warming up`, `ready`) and its fraction done."""

    stage: str
    fraction: float = 0.0
