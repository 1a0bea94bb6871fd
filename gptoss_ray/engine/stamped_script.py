"""A script whose tokens are written down with the moment at which the engine drew each."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from gptoss_ray.generation import GenerationRequest


@dataclass(frozen=True)
class StampedScript:
    """Answers every request alike: an opening, then one token over and over, up to the request's limit.

    A scripted engine draws one token of each request in a step, at the end of it. So the moment at which
    a token is drawn is that at which the engine gives it away, and nothing has to be added to what a
    request or an output carries.

    Attributes:
        opening: Ids that begin the answer; they are not written down.
        repeated: Id of the token behind them.
        stamps: File to which the moments of each answer are added, complete when its last token is drawn;
            None: nothing is written.
    """

    opening: tuple[int, ...]
    repeated: int
    stamps: Path | None = None

    def __call__(self, request: GenerationRequest) -> Iterator[int]:
        """Play the answer of one request."""
        yield from self.opening
        num_repeats = request.params.max_tokens - len(self.opening)
        moments_s: list[float] = []
        while True:
            moments_s.append(time.monotonic())
            if self.stamps is not None and len(moments_s) == num_repeats:
                _write(self.stamps, request.request_id, moments_s)
            yield self.repeated


def _write(file: Path, request_id: str, moments_s: Sequence[float]) -> None:
    with file.open("a", encoding="utf-8") as lines:
        lines.write(f"{request_id} {' '.join(map(repr, moments_s))}\n")


def read_stamps(file: Path) -> dict[str, tuple[float, ...]]:
    """Return by request id when each repeated token was drawn, in seconds of the monotonic clock."""
    answers = (line.split() for line in file.read_text(encoding="utf-8").splitlines())
    return {request_id: tuple(map(float, moments)) for request_id, *moments in answers}
