"""One rank's engine: requests in, tokens out, a step at a time.

Single-threaded by contract: one loop calls `submit`, `abort` and `step`.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence as ReadOnlySequence
from dataclasses import dataclass

from gptoss_ray.config import EngineConfig
from gptoss_ray.engine.limits import check_request, resolve_context
from gptoss_ray.engine.model_runner import ModelRunner
from gptoss_ray.engine.sampler import Sampler
from gptoss_ray.engine.scheduler import Scheduler
from gptoss_ray.engine.sequence import Sequence
from gptoss_ray.errors import ConfigError, InvalidRequestError, OverloadedError
from gptoss_ray.generation import GenerationRequest, TokenOutput
from gptoss_ray.kvcache.block_pool import BlockPool
from gptoss_ray.kvcache.block_table import BlockTable
from gptoss_ray.kvcache.geometry import KVGeometry
from gptoss_ray.kvcache.kv_cache import KVCache, bytes_per_block
from gptoss_ray.kvcache.prefix_cache import PrefixCache
from gptoss_ray.model.transformer import Transformer

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class EngineStats:
    """An engine at one moment; totals count from its start.

    Attributes:
        num_running: Sequences that own KV blocks.
        num_waiting: Sequences that wait for a seat or for blocks.
        kv_cache_usage: Share of KV blocks owned by sequences, 0 to 1.
        prefix_cache_queries: Tokens looked up in the prefix cache.
        prefix_cache_hits: Tokens found there.
        num_steps: Steps committed.
        num_prompt_tokens: Prompt tokens of all requests taken.
        num_generation_tokens: Tokens drawn.
        num_preemptions: Times a sequence lost its blocks to an earlier one.
    """

    num_running: int
    num_waiting: int
    kv_cache_usage: float
    prefix_cache_queries: int
    prefix_cache_hits: int
    num_steps: int
    num_prompt_tokens: int
    num_generation_tokens: int
    num_preemptions: int


class Engine:
    """Continuous batching over one network and one pool of KV blocks.

    Args:
        transformer: The network with its weights.
        config: Limits and memory.
        suppressed_token_ids: Ids that are never drawn (reserved ones of the vocabulary).

    Raises:
        ConfigError: The KV memory cannot hold what the configuration promises.
    """

    def __init__(
        self,
        transformer: Transformer,
        config: EngineConfig,
        *,
        suppressed_token_ids: ReadOnlySequence[int] = (),
    ) -> None:
        model = transformer.config
        self._config = config
        self._vocab_size = model.vocab_size
        self._geometry = KVGeometry(config.kv_block_size, model.sliding_window, config.max_num_batched_tokens)
        kv_cache = _make_kv_cache(transformer, config)
        self._pool = BlockPool(kv_cache.num_blocks)
        self.max_context = resolve_context(
            model.max_context, config.max_context, self._geometry.max_tokens_in(kv_cache.num_blocks)
        )
        self._scheduler = Scheduler(
            self._pool,
            PrefixCache(self._pool, self._geometry) if config.prefix_cache else None,
            max_num_sequences=config.max_num_sequences,
            max_num_batched_tokens=config.max_num_batched_tokens,
        )
        self._runner = ModelRunner(transformer, kv_cache)
        self._sampler = Sampler(model.vocab_size, suppressed_token_ids)
        self._ended_at_submit: dict[str, TokenOutput] = {}
        self._num_steps = 0
        self._num_prompt_tokens = 0
        self._num_generation_tokens = 0
        logger.info(
            "engine_ready num_kv_blocks=%d kv_block_size=%d max_context=%d max_num_sequences=%d "
            "max_num_batched_tokens=%d prefix_cache=%s",
            *(kv_cache.num_blocks, config.kv_block_size, self.max_context, config.max_num_sequences),
            *(config.max_num_batched_tokens, config.prefix_cache),
        )

    @property
    def has_work(self) -> bool:
        """Whether a step would do anything."""
        return bool(self._ended_at_submit or self._scheduler.num_running or self._scheduler.num_waiting)

    def submit(self, request: GenerationRequest) -> None:
        """Queue a request behind all others; its tokens come out of later steps.

        Raises:
            InvalidRequestError: The engine could never serve it, or its id is in use.
            ContextLengthExceededError: The prompt leaves no room for an output token.
            OverloadedError: The queue is full.
        """
        check_request(request, vocab_size=self._vocab_size, max_context=self.max_context)
        if request.request_id in self._scheduler or request.request_id in self._ended_at_submit:
            raise InvalidRequestError(
                f"Request id {request.request_id} is in use; choose one that no live request has.",
                param="request_id",
            )
        self._check_queue()
        sequence = Sequence(request, BlockTable(self._pool, self._geometry), self.max_context)
        finish_reason = sequence.finish_reason()
        if finish_reason is not None:
            output = sequence.output(sequence.num_output_tokens, finish_reason=finish_reason)
            self._ended_at_submit[request.request_id] = output
        else:
            self._scheduler.add(sequence)
        self._num_prompt_tokens += len(request.prompt_token_ids)
        logger.debug(
            "request_submitted request_id=%s num_prompt_tokens=%d num_emitted_tokens=%d max_tokens=%d",
            *(request.request_id, len(request.prompt_token_ids), len(request.emitted_token_ids)),
            request.params.max_tokens,
        )

    def abort(self, request_id: str) -> bool:
        """Forget a request and free its blocks; no output of it follows. False when it is not here."""
        had_ended = self._ended_at_submit.pop(request_id, None) is not None
        was_here = had_ended or self._scheduler.abort(request_id)
        logger.debug("request_aborted request_id=%s was_here=%s", request_id, was_here)
        return was_here

    def step(self) -> list[TokenOutput]:
        """Compute one batch and return what it made, at most one output per request.

        An exception of the forward pass drops the plan: no sequence has moved, and a later step does
        the same work again.
        """
        plan = self._scheduler.schedule()
        logits = self._runner.run(plan)
        draws = self._sampler.sample(logits, plan.drawing_sequences())
        return self._take_ended_at_submit() + self._count(self._scheduler.commit(plan, draws))

    def stats(self) -> EngineStats:
        """Load and totals as of now."""
        return EngineStats(
            num_running=self._scheduler.num_running,
            num_waiting=self._scheduler.num_waiting,
            kv_cache_usage=1 - self._pool.num_free / self._pool.num_blocks,
            prefix_cache_queries=self._scheduler.num_looked_up_tokens,
            prefix_cache_hits=self._scheduler.num_found_tokens,
            num_steps=self._num_steps,
            num_prompt_tokens=self._num_prompt_tokens,
            num_generation_tokens=self._num_generation_tokens,
            num_preemptions=self._scheduler.num_preemptions,
        )

    def _check_queue(self) -> None:
        num_here = self._scheduler.num_running + self._scheduler.num_waiting
        if num_here >= self._config.max_num_sequences + self._config.max_queued_requests:
            raise OverloadedError(
                f"{num_here} requests are running or queued, and no more are taken; try again later."
            )

    def _take_ended_at_submit(self) -> list[TokenOutput]:
        outputs = list(self._ended_at_submit.values())
        self._ended_at_submit.clear()
        return outputs

    def _count(self, outputs: list[TokenOutput]) -> list[TokenOutput]:
        self._num_steps += 1
        for output in outputs:
            self._num_generation_tokens += len(output.token_ids)
            if output.finish_reason is not None:
                logger.debug(
                    "request_ended request_id=%s finish_reason=%s num_output_tokens=%d num_cached_tokens=%d",
                    *(output.request_id, output.finish_reason.value),
                    *(output.position + len(output.token_ids), output.num_cached_tokens),
                )
        return outputs


def _make_kv_cache(transformer: Transformer, config: EngineConfig) -> KVCache:
    """As many blocks as `kv_cache_bytes` holds."""
    model = transformer.config
    shape = (config.kv_block_size, model.num_key_value_heads, model.head_dim)
    block_bytes = bytes_per_block(*shape, model.layer_types, transformer.dtype)
    num_blocks = config.kv_cache_bytes // block_bytes
    if num_blocks < 2:
        raise ConfigError(
            f"kv_cache_bytes is {config.kv_cache_bytes}, but two KV blocks take {2 * block_bytes} bytes; "
            "raise it.",
            param="kv_cache_bytes",
        )
    return KVCache(num_blocks, *shape, model.layer_types, transformer.dtype, transformer.embedding.device)
