"""The seam between the ingress and whatever makes tokens: a replica over Ray, or a script in tests."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from typing import TYPE_CHECKING, Protocol

from gptoss_ray.generation import GenerationRequest, TokenOutput

if TYPE_CHECKING:
    from gptoss_ray.ranks.group_stats import GroupStats


class SequencePausedError(Exception):
    """The reader was so far behind that its sequence was ended: what has not been read can be made again."""


class RequestMovesError(Exception):
    """A request waits at a full replica while another has room: sent again, it goes there."""


class TokenSource(Protocol):
    """Makes the tokens of one model."""

    def generate(self, request: GenerationRequest) -> AsyncGenerator[TokenOutput, None]:
        """Yield outputs in order of position; the last one carries a finish reason.

        Closing or cancelling the generator at any moment aborts the request. Nothing is submitted
        before the first `__anext__`.

        Raises:
            GptossError: The request was refused or lost, before or between outputs.
            RequestMovesError: Before the first output, where the request is better sent again.
            SequencePausedError: Behind the last output that was kept for a reader who is too far behind.
        """
        ...

    async def abort(self, abort_key: str) -> int:
        """End the requests of a key, whoever sent them; return how many there were.

        Raises:
            UnavailableError: Not all that may work on some could be asked.
        """
        ...

    async def ready(self) -> bool:
        """Return whether a request sent now would be served; never raises."""
        ...

    async def stats(self) -> Sequence[GroupStats]:
        """Return what each replica tells of itself, nothing where one does not answer; never raises."""
        ...
