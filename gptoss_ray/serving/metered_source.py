"""A model's tokens, as far as the caller's deadline and its key's quota of tokens go."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import TYPE_CHECKING

from gptoss_ray.config import QuotaConfig
from gptoss_ray.generation import GenerationRequest, TokenOutput
from gptoss_ray.serving.auth import ApiKeys
from gptoss_ray.serving.deadline import before_deadline
from gptoss_ray.serving.token_source import TokenSource
from gptoss_ray.tracing import current_traceparent

if TYPE_CHECKING:
    from gptoss_ray.ranks.group_stats import GroupStats


logger = logging.getLogger(__name__)


class MeteredTokenSource:
    """A `TokenSource` that ends at the deadline, and refuses and charges by the tenant's quota."""

    def __init__(self, source: TokenSource, keys: ApiKeys) -> None:
        self._source = source
        self._keys = keys

    def generate(self, request: GenerationRequest) -> AsyncGenerator[TokenOutput, None]:
        """See `TokenSource.generate`; called in the task of the request, whose deadline holds.

        Raises:
            RateLimitError: The tenant's tokens of this minute are used up.
            DeadlineExceededError: From the generator, when the deadline passes.
        """
        quota = self._keys.quota(request.cache_salt)
        self._keys.quotas.check_tokens(request.cache_salt, quota)
        logger.info(
            "request_admitted request_id=%s num_prompt_tokens=%d max_tokens=%d",
            *(request.request_id, len(request.prompt_token_ids), request.params.max_tokens),
        )
        admitted = replace(request, share=quota.share, traceparent=current_traceparent())
        # Most requests have neither: nothing stands between them and their tokens then.
        outputs = before_deadline(self._source.generate(admitted))
        return outputs if quota.tokens_per_minute is None else self._charged(request, quota, outputs)

    async def _charged(
        self, request: GenerationRequest, quota: QuotaConfig, outputs: AsyncGenerator[TokenOutput, None]
    ) -> AsyncGenerator[TokenOutput, None]:
        # A prompt is one, however many choices it has.
        num_tokens = len(request.prompt_token_ids) if request.params.choice_index == 0 else 0
        try:
            async with aclosing(outputs):
                async for output in outputs:
                    num_tokens += len(output.token_ids)
                    yield output
        finally:
            self._keys.quotas.charge_tokens(request.cache_salt, quota, num_tokens)

    async def abort(self, abort_key: str) -> int:
        """See `TokenSource.abort`."""
        return await self._source.abort(abort_key)

    async def ready(self) -> bool:
        """See `TokenSource.ready`."""
        return await self._source.ready()

    async def stats(self) -> Sequence[GroupStats]:
        """See `TokenSource.stats`."""
        return await self._source.stats()
