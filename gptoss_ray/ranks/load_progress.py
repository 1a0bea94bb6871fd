"""How far a rank is with its start, as others may ask while it loads."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LoadProgress:
    """A stage of a rank's start and its fraction done.

    The stages: `importing`, `verifying`, `loading`, `loaded` (waiting for the other ranks), `joining` them,
    `warming up`, `ready`.
    """

    stage: str
    fraction: float = 0.0

    def __str__(self) -> str:
        return f"{self.stage} {self.fraction:.0%}" if self.stage in ("verifying", "loading") else self.stage
