"""The journal of live requests: one that is lost goes on elsewhere behind the tokens it has delivered.

A request is resumable from its tokens alone (law 2), so all that must be kept is what was delivered. Whoever
reads the tokens sees a pause where a rank, a replica or a node was lost: no token is missing and none comes
twice.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import aclosing
from dataclasses import replace
from itertools import chain, repeat
from typing import TYPE_CHECKING

from gptoss_ray.config import LimitsConfig
from gptoss_ray.errors import InternalError, OverloadedError, RequestLostError, UnavailableError
from gptoss_ray.generation import GenerationRequest, TokenOutput
from gptoss_ray.serving.token_source import RequestMovesError, SequencePausedError, TokenSource
from gptoss_ray.tracing import Span, Tracer

if TYPE_CHECKING:
    from gptoss_ray.ranks.group_stats import GroupStats

logger = logging.getLogger(__name__)

_PAUSES_S = (0.0, 0.05, 0.1, 0.2, 0.4)
_LONGEST_PAUSE_S = 0.8


class Journal:
    """One request, and what has been delivered of it.

    Attributes:
        num_attempts: How often the request was lost, paused or moved, and sent again.
        num_migrations: How often because it was lost.
        migration: Span of the migration that is under way, of a traced request.
    """

    def __init__(self, request: GenerationRequest) -> None:
        self._request = request
        self._delivered = list(request.emitted_token_ids)
        self.num_attempts = 0
        self.num_migrations = 0
        self.migration: Span | None = None

    @property
    def position(self) -> int:
        """Index in the output of the token that comes next."""
        return len(self._delivered)

    def attempt(self) -> GenerationRequest:
        """Return the request to send now: what was delivered is its beginning.

        Each attempt has an id of its own, so that what a lost rank, or a paused sequence, still sends is
        nobody's.
        """
        if not self.num_attempts:
            return self._request
        return replace(
            self._request,
            request_id=f"{self._request.request_id}~{self.num_attempts}",
            emitted_token_ids=tuple(self._delivered),
        )

    def take(self, output: TokenOutput) -> TokenOutput:
        """Note an output of the present attempt; return it under the id that the request came with.

        Raises:
            InternalError: It does not begin where the one before ended.
        """
        if output.position != self.position:
            raise InternalError(
                f"Token {self.position} of the answer was to come next, and token {output.position} came."
            )
        self._delivered += output.token_ids
        self.end_migration()
        if not self.num_attempts:
            return output
        return output._replace(request_id=self._request.request_id)

    def end_migration(self, error: str = "") -> None:
        """End the span of the migration that is under way, if any: its request goes on, or has failed."""
        if self.migration is not None:
            self.migration.end(error=error)
            self.migration = None


class JournaledTokenSource:
    """A token source whose requests survive what works on them.

    Args:
        source: Sends a request to some rank; raises RequestLostError for one that is lost there.
        limits: How often a request may be lost, and how long it may look for a rank that takes it.
        note_migration: Called at each migration.
        clock: Seconds that never go back.
        tracer: Makes the spans of traced requests.
    """

    def __init__(
        self,
        source: TokenSource,
        limits: LimitsConfig,
        note_migration: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
        tracer: Tracer | None = None,
    ) -> None:
        self._tracer = tracer
        self._source = source
        self._limits = limits
        self._note_migration = note_migration
        self._clock = clock

    async def ready(self) -> bool:
        """See `TokenSource.ready`."""
        return await self._source.ready()

    async def abort(self, abort_key: str) -> int:
        """See `TokenSource.abort`."""
        return await self._source.abort(abort_key)

    async def stats(self) -> Sequence[GroupStats]:
        """See `TokenSource.stats`."""
        return await self._source.stats()

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[TokenOutput, None]:
        """See `TokenSource.generate`; a lost request is sent again, `limits.max_migrations` times at most.

        So is one whose sequence was paused, once its reader has read all that was kept, and one that waits
        at a full replica while another has room, however often.

        Raises:
            GptossError: The request was refused when it came, failed, was lost too often, or found no rank
                within `limits.recovery_timeout_s` after it was lost.
        """
        journal = Journal(request)
        pauses, gives_up_at = _pauses(), 0.0
        try:
            while True:
                try:
                    async with aclosing(self._source.generate(journal.attempt())) as outputs:
                        async for output in outputs:
                            if isinstance(output.error, RequestLostError):
                                raise output.error
                            yield journal.take(output)
                            if output.finish_reason is not None:
                                return
                    raise RequestLostError("What worked on this request has gone; send it again.")
                except (SequencePausedError, RequestMovesError):
                    logger.info(
                        "request_goes_on request_id=%s position=%d", request.request_id, journal.position
                    )
                    journal.num_attempts += 1
                    pauses, gives_up_at = _pauses(), self._clock() + self._limits.recovery_timeout_s
                except RequestLostError as error:
                    self._note_loss(request, journal, error)
                    pauses, gives_up_at = _pauses(), self._clock() + self._limits.recovery_timeout_s
                except (UnavailableError, OverloadedError):
                    if not journal.num_attempts or self._clock() > gives_up_at:
                        raise
                await asyncio.sleep(next(pauses))
        finally:
            journal.end_migration("request_lost")

    def _note_loss(self, request: GenerationRequest, journal: Journal, error: RequestLostError) -> None:
        """Count a loss; raise it where the request was lost too often.

        A request that takes down every rank that works on it thus fails alone.
        """
        journal.end_migration("request_lost")
        if journal.num_migrations >= self._limits.max_migrations:
            times = journal.num_migrations + 1
            logger.error("request_lost request_id=%s times=%d", request.request_id, times)
            raise RequestLostError(
                f"What worked on this request was lost, {times} time(s) in a row; send it again later."
            ) from error
        journal.num_migrations += 1
        journal.num_attempts += 1
        self._note_migration()
        if self._tracer is not None and request.traceparent:
            journal.migration = self._tracer.start(
                "migration",
                request.traceparent,
                {"gptoss.migration": journal.num_migrations, "gptoss.position": journal.position},
            )
        logger.warning(
            "request_migrates request_id=%s migration=%d position=%d",
            request.request_id,
            journal.num_migrations,
            journal.position,
        )


def _pauses() -> Iterator[float]:
    """Yield how long to wait before each attempt, in seconds: at once at first, then longer and longer."""
    return chain(_PAUSES_S, repeat(_LONGEST_PAUSE_S))
