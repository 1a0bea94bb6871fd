"""A token source that loses requests where a test says so, and goes on with what is sent again."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence

from gptoss_ray.errors import GptossError, RequestLostError
from gptoss_ray.generation import GenerationRequest, TokenOutput
from gptoss_ray.ranks.group_stats import GroupStats
from gptoss_ray.serving.token_source import TokenSource


class UnreliableSource:
    """Loses each request before the tokens at `lost_at`, one loss an attempt.

    Args:
        source: Works on the requests.
        lost_at: Positions in the output, ascending; the n-th attempt ends at the n-th of them.
        refusals: Raised, one after the other, by attempts behind the first, before they are worked on.
    """

    def __init__(
        self, source: TokenSource, lost_at: Sequence[int], refusals: Sequence[GptossError] = ()
    ) -> None:
        self._source = source
        self._lost_at = lost_at
        self._refusals = list(refusals)
        self._num_losses: dict[str, int] = {}
        self.attempts: list[GenerationRequest] = []

    async def ready(self) -> bool:
        return await self._source.ready()

    async def abort(self, abort_key: str) -> int:
        return await self._source.abort(abort_key)

    async def stats(self) -> Sequence[GroupStats]:
        return await self._source.stats()

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[TokenOutput, None]:
        self.attempts.append(request)
        name = request.request_id.partition("~")[0]
        num_losses = self._num_losses.get(name, 0)
        if num_losses and self._refusals:
            raise self._refusals.pop(0)
        outputs = self._source.generate(request)
        try:
            async for output in outputs:
                is_lost = num_losses < len(self._lost_at) and output.position >= self._lost_at[num_losses]
                if is_lost:
                    self._num_losses[name] = num_losses + 1
                    raise RequestLostError("Lost on purpose.")
                yield output
        finally:
            await outputs.aclose()
