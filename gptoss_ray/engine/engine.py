"""One rank's engine: requests in, tokens out, a step at a time.

Single-threaded by contract: one loop calls all methods. In a group of ranks every step begins with an
agreement, and every rank runs what was agreed, also without tokens of its own.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from collections.abc import Sequence as ReadOnlySequence
from contextlib import contextmanager
from dataclasses import replace

import torch

from gptoss_ray.config import EngineConfig
from gptoss_ray.engine.draft import Drafter
from gptoss_ray.engine.engine_stats import EngineStats
from gptoss_ray.engine.expert_counts import expert_load, expert_traffic
from gptoss_ray.engine.failed_steps import FailedSteps, Verdict
from gptoss_ray.engine.find_executor import MakeExecutor, find_executor
from gptoss_ray.engine.limits import check_request, resolve_context
from gptoss_ray.engine.mask_prefetch import MaskPrefetch
from gptoss_ray.engine.model_runner import ModelRunner
from gptoss_ray.engine.ngram_drafter import NgramDrafter
from gptoss_ray.engine.sampler import Sampler
from gptoss_ray.engine.scheduler import Scheduler
from gptoss_ray.engine.sequence import Sequence
from gptoss_ray.engine.speculation import DraftCounts, make_speculation
from gptoss_ray.engine.step_cost import StepCost
from gptoss_ray.engine.step_executor import EagerExecutor, StepExecutor, StepLimits
from gptoss_ray.engine.step_pipeline import StepPipeline
from gptoss_ray.engine.step_plan import StepPlan
from gptoss_ray.engine.token_constraint import CompileGrammar, TokenConstraint
from gptoss_ray.errors import (
    ConfigError,
    GroupBrokenError,
    InvalidRequestError,
    OverloadedError,
    StepFailedError,
)
from gptoss_ray.generation import GenerationRequest, TokenOutput
from gptoss_ray.kvcache.block_pool import BlockPool
from gptoss_ray.kvcache.block_table import BlockTable
from gptoss_ray.kvcache.geometry import KVGeometry
from gptoss_ray.kvcache.kv_cache import KVCache, bytes_per_block
from gptoss_ray.kvcache.prefix_cache import PrefixCache
from gptoss_ray.model.transformer import Transformer
from gptoss_ray.parallel.step_sync import LocalStepSync, StepAgreement, StepSync

logger = logging.getLogger(__name__)


class Engine:
    """Continuous batching over one network and one pool of KV blocks.

    Args:
        transformer: The network with its weights.
        config: Limits and memory.
        step_sync: How steps are agreed on with the other ranks.
        leave_group: Called when a step cannot be completed here, so that the other ranks do not wait for
            it; None: there are none, and the step may be tried again.
        suppressed_token_ids: Ids that are never drawn (reserved ones of the vocabulary).
        compile_grammar: Makes the constraint of a grammar; None: requests with one are refused.
        make_executor: Makes what computes the steps; None: what the network's device wants.
        drafter: Guesses tokens for `config.speculation`; None: by looking into the text.

    Raises:
        ConfigError: The KV memory cannot hold what the configuration promises.
    """

    def __init__(
        self,
        transformer: Transformer,
        config: EngineConfig,
        *,
        step_sync: StepSync | None = None,
        leave_group: Callable[[], None] | None = None,
        suppressed_token_ids: ReadOnlySequence[int] = (),
        compile_grammar: CompileGrammar | None = None,
        make_executor: MakeExecutor | None = None,
        drafter: Drafter | None = None,
    ) -> None:
        model = transformer.config
        self._config = config
        self._vocab_size = model.vocab_size
        self._geometry = KVGeometry(config.kv_block_size, model.sliding_window, config.max_num_batched_tokens)
        make_executor = make_executor or find_executor(transformer, config, suppressed_token_ids)
        kv_cache = _make_kv_cache(transformer, config, has_spare_block=make_executor is not None)
        self._pool = BlockPool(kv_cache.num_blocks)
        self.max_context = resolve_context(
            model.max_context, config.max_context, self._geometry.max_tokens_in(kv_cache.num_blocks)
        )
        device = transformer.embedding.device.type
        self._speculation = make_speculation(
            drafter or NgramDrafter(), config, StepCost(model, config), device
        )
        self._scheduler = Scheduler(
            self._pool,
            PrefixCache(self._pool, self._geometry) if config.prefix_cache else None,
            max_num_sequences=config.max_num_sequences,
            max_num_batched_tokens=config.max_num_batched_tokens,
            speculation=self._speculation,
        )
        sampler, masks = Sampler(model.vocab_size, suppressed_token_ids), MaskPrefetch()
        self._executor: StepExecutor = (
            EagerExecutor(ModelRunner(transformer, kv_cache), sampler, masks)
            if make_executor is None
            else make_executor(transformer, kv_cache, sampler, masks, self._step_limits())
        )
        self._pipeline = StepPipeline(self._scheduler, self._executor, is_alone=leave_group is None)
        self._step_sync = step_sync or LocalStepSync()
        self._leave_group = leave_group
        self._compile_grammar = compile_grammar
        self._placement = 0
        self._staged: tuple[int, Transformer] | None = None
        self._ended_at_submit: dict[str, TokenOutput] = {}
        self._failed_steps = FailedSteps()
        self._num_steps = 0
        self._num_prompt_tokens = 0
        self._num_generation_tokens = 0
        logger.info(
            "engine_ready num_kv_blocks=%d kv_block_size=%d max_context=%d max_num_sequences=%d "
            "max_num_batched_tokens=%d kv_cache_dtype=%s prefix_cache=%s speculation=%s",
            *(kv_cache.num_blocks, config.kv_block_size, self.max_context, config.max_num_sequences),
            *(config.max_num_batched_tokens, kv_cache.dtype, config.prefix_cache),
            config.speculation,
        )

    @property
    def heartbeat_s(self) -> float | None:
        """Longest wait before `agree` is called again, with or without work; None: nobody waits for it."""
        return self._step_sync.heartbeat_s

    @property
    def executor(self) -> StepExecutor:
        """What computes its steps."""
        return self._executor

    @property
    def transformer(self) -> Transformer:
        """The network in use."""
        return self._executor.transformer

    @property
    def has_work(self) -> bool:
        """Whether this rank has anything to do in a step."""
        return bool(self._ended_at_submit or self._pipeline.has_outputs or not self._scheduler.is_idle)

    def prepare(self, request: GenerationRequest) -> TokenConstraint | None:
        """Return what the request's grammar allows behind its emitted tokens, None where it has none.

        May take long, so that it is better done before `submit`; unlike all else, from any thread.

        Raises:
            InvalidRequestError: The grammar cannot be enforced, or the emitted tokens do not follow it.
        """
        grammar = request.params.grammar
        if grammar is None:
            return None
        if self._compile_grammar is None:
            raise InvalidRequestError(
                "The served model has no harmony vocabulary, so its output cannot be held to a grammar.",
                param="grammar",
            )
        check_request(request, vocab_size=self._vocab_size, max_context=self.max_context)
        constraint = self._compile_grammar(grammar)
        if not all(map(constraint.advance, request.emitted_token_ids)):
            raise InvalidRequestError(
                "emitted_token_ids do not follow the request's grammar; send those that it made.",
                param="emitted_token_ids",
            )
        return constraint

    def submit(self, request: GenerationRequest, constraint: TokenConstraint | None = None) -> None:
        """Queue a request behind all others; its tokens come out of later steps.

        Args:
            request: What to generate.
            constraint: As `prepare` returned it for the request; prepared now where it is missing.

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
        if constraint is None:
            constraint = self.prepare(request)
        blocks = BlockTable(self._pool, self._geometry)
        sequence = Sequence(request, blocks, self.max_context, constraint)
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
        self._failed_steps.forget(request_id)
        self._pipeline.forget(request_id)
        had_ended = self._ended_at_submit.pop(request_id, None) is not None
        was_here = had_ended or self._scheduler.abort(request_id)
        logger.debug("request_aborted request_id=%s was_here=%s", request_id, was_here)
        return was_here

    def step(self) -> list[TokenOutput]:
        """Agree on a step and run it."""
        return self.run(self.agree())

    def agree(self, *, is_leaving: bool = False) -> StepAgreement:
        """Tell the other ranks what there is to do here, and return what all do next.

        Args:
            is_leaving: This rank was asked to stop.

        Raises:
            GroupBrokenError: A rank is lost, late, or of another epoch.
        """
        staged = self._placement if self._staged is None else self._staged[0]
        with self._leaving_on_failure():
            demand = replace(self._pipeline.demand(), staged_placement=staged, is_leaving=is_leaving)
            return self._step_sync.agree(demand)

    def run(self, agreement: StepAgreement) -> list[TokenOutput]:
        """Begin the agreed batch, and return what steps have made since the last call.

        That is what the step before has made where a device still computes this one, else what this one has.
        An exception of the forward pass drops the plan: no sequence has moved, and a later step does
        the same work again.

        Raises:
            StepFailedError: The step failed on this rank, which has left the group.
            GroupBrokenError: It failed on another.
        """
        with self._leaving_on_failure():
            self._swap_placement(agreement.placement)
            if agreement.runs:
                self._pipeline.run(agreement)
                self._num_steps += 1
            else:
                self._pipeline.settle()
        self._note_completed()
        return self._take_ended_at_submit() + self._count(self._pipeline.take_outputs())

    def blame(self) -> tuple[str, ...]:
        """Take a failed step into account, once; return which requests are to fail (`failed_steps.py`)."""
        self._note_completed()
        planned = _request_ids(self._pipeline.plan)
        verdict = self._failed_steps.fail(planned)
        if verdict is Verdict.ISOLATE:
            logger.error("requests_isolated request_ids=%s", ",".join(planned))
            self._scheduler.suspect(planned)
        return (planned or self._scheduler.request_ids) if verdict is Verdict.BLAME else ()

    def stage_placement(self, version: int, transformer: Transformer) -> None:
        """Get ready to go on with other experts; they are swapped in once all ranks have staged them.

        Args:
            version: Of the placement, above all before; one is staged at a time.
            transformer: The present one, with other experts. Requests do not notice.
        """
        assert self._staged is None, "the placement staged before is not in use yet"
        assert version > self._placement, f"placement {version} is not newer than {self._placement}"
        self._staged = (version, transformer)

    def drop_steps(self) -> None:
        """Let go of what is under way, before the group's wires change; requests do not notice."""
        self._pipeline.drop()

    def change_epoch(self, version: int, transformer: Transformer) -> None:
        """Go on among other ranks, with other experts; between two steps, on a rank that has joined them.

        Args:
            version: Of the placement, above all before; one that was staged is dropped.
            transformer: The present one, with the experts of the new epoch. Requests do not notice.
        """
        assert version > self._placement, f"placement {version} is not newer than {self._placement}"
        self._staged = None
        self._placement, self._executor.transformer = version, transformer

    def stats(self) -> EngineStats:
        """Load and totals as of now."""
        traffic = expert_traffic(self.transformer)
        drafts = DraftCounts() if self._speculation is None else self._speculation.counts
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
            placement=self._placement,
            num_kv_blocks=self._pool.num_blocks,
            expert_load=expert_load(self.transformer),
            num_expert_rows=int(traffic.num_rows),
            all_to_all_s=traffic.all_to_all_s,
            num_drafts=drafts.num_drafts,
            num_draft_tokens=drafts.num_tokens,
            num_accepted_tokens=drafts.num_accepted,
        )

    def close(self) -> None:
        """End what steps have started; no step can follow."""
        self._pipeline.drop()
        self._executor.close()

    def _note_completed(self) -> None:
        """Tell `FailedSteps` of what was committed, before it is told of a later failure."""
        for plan in self._pipeline.take_committed():
            self._failed_steps.complete(_request_ids(plan))

    def _step_limits(self) -> StepLimits:
        config = self._config
        return StepLimits(
            max_num_sequences=config.max_num_sequences,
            max_num_tokens=config.max_num_batched_tokens,
            max_context=self.max_context,
            max_drafted_tokens=config.max_drafted_tokens,
        )

    def _swap_placement(self, agreed: int) -> None:
        """Take the staged experts into use if all ranks have them; between steps, so on all alike."""
        if self._staged is None or agreed < self._staged[0]:
            return
        self._pipeline.settle()
        self._placement, self._executor.transformer = self._staged
        self._staged = None
        logger.info("placement_swapped version=%d", self._placement)

    @contextmanager
    def _leaving_on_failure(self) -> Iterator[None]:
        """Leave the group when a step fails: its ranks are out of step, and must not wait for this one.

        What is under way is dropped, once nobody is waited for.
        """
        try:
            yield
        except Exception as error:
            if self._leave_group is None:
                self._pipeline.drop()
                raise
            self._leave_group()
            self._pipeline.drop()
            if isinstance(error, GroupBrokenError):
                raise
            raise StepFailedError("A step failed on a rank of the group; send the request again.") from error

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
        for output in outputs:
            self._num_generation_tokens += len(output.token_ids)
            if output.finish_reason is not None:
                logger.debug(
                    "request_ended request_id=%s finish_reason=%s num_output_tokens=%d num_cached_tokens=%d",
                    *(output.request_id, output.finish_reason.value),
                    *(output.position + len(output.token_ids), output.num_cached_tokens),
                )
        return outputs


def _request_ids(plan: StepPlan | None) -> tuple[str, ...]:
    """Return whose tokens a step computes."""
    return () if plan is None else tuple(chunk.sequence.request_id for chunk in plan.chunks)


def _make_kv_cache(transformer: Transformer, config: EngineConfig, *, has_spare_block: bool) -> KVCache:
    """As many blocks as `kv_cache_bytes` holds."""
    model = transformer.config
    shape = (config.kv_block_size, model.num_key_value_heads, model.head_dim)
    dtype = torch.float8_e4m3fn if config.kv_cache_dtype == "fp8" else transformer.dtype
    block_bytes = bytes_per_block(*shape, model.layer_types, dtype)
    num_blocks = config.kv_cache_bytes // block_bytes
    if num_blocks < 2:
        raise ConfigError(
            f"kv_cache_bytes is {config.kv_cache_bytes}, but two KV blocks take {2 * block_bytes} bytes; "
            "raise it.",
            param="kv_cache_bytes",
        )
    return KVCache(
        num_blocks,
        *shape,
        model.layer_types,
        dtype,
        transformer.embedding.device,
        has_spare_block=has_spare_block,
    )
