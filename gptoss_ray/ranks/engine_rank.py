"""EngineRank: the Ray actor around one engine. No Ray call stands inside a step."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from gptoss_ray.config import ServedModelConfig
from gptoss_ray.errors import GptossError, InternalError, InvalidRequestError, UnavailableError
from gptoss_ray.generation import FinishReason, GenerationRequest, SamplingParams, TokenOutput
from gptoss_ray.json_logs import log_as_json
from gptoss_ray.parallel.membership import GroupMembership
from gptoss_ray.ranks.abort_keys import AbortKeys
from gptoss_ray.ranks.epoch_change import EpochChange
from gptoss_ray.ranks.layer_swap import LayerSwap
from gptoss_ray.ranks.load_progress import LoadProgress
from gptoss_ray.ranks.rank_facts import RankFacts, read_facts
from gptoss_ray.ranks.rank_member import RankMember, RankPulse
from gptoss_ray.ranks.request_traces import RequestTraces
from gptoss_ray.ranks.sink_outbox import SinkOutbox
from gptoss_ray.ranks.step_loop import Batches, StepLoop, SteppedEngine
from gptoss_ray.ranks.wait_times import WaitTimes

if TYPE_CHECKING:
    from gptoss_ray.model.transformer import Transformer
    from gptoss_ray.parallel.group_link import GroupLink

logger = logging.getLogger(__name__)

LoadEngine = Callable[
    [ServedModelConfig, int, "GroupLink | None", Sequence[int], Callable[[float], None]], SteppedEngine
]

_WARM_UP = GenerationRequest(
    request_id="warm-up", prompt_token_ids=(0, 0), params=SamplingParams(max_tokens=2), sink_id=""
)
_FIRST_GRAMMAR = replace(_WARM_UP, params=SamplingParams(grammar='start: "a"'))


@dataclass(frozen=True, slots=True)
class RankStats:
    """What a rank reports of itself; `engine` is its `EngineStats`, `step_s` the seconds spent in steps.

    `first_token_s` is how long nine requests in ten waited for their first token here of late; None where
    none did.
    """

    rank: int
    engine: Any
    num_live_requests: int
    num_failed_steps: int
    num_messages: int
    """Batches handed to token streams so far."""
    step_s: float = 0.0
    first_token_s: float | None = None


class EngineRank:
    """Loads an engine, runs its step loop in a thread and streams its outputs to the ingress replicas.

    All methods are coroutines of the actor's event loop; `load` and then `start` come first.

    Args:
        config: The model to serve.
        rank: Number of this rank in its group, from 0.
        load: Makes the engine; the default reads the checkpoint.
        json_logs: Whether this process logs as JSON.
    """

    def __init__(
        self,
        config: ServedModelConfig,
        rank: int = 0,
        load: LoadEngine | None = None,
        *,
        json_logs: bool = False,
    ) -> None:
        if json_logs:
            log_as_json()
        self._config = config
        self._rank = rank
        self._load_engine = load
        self._progress = LoadProgress("importing")
        self._link: GroupLink | None = None
        self._engine: SteppedEngine | None = None
        self._loop: StepLoop | None = None
        self._outbox = SinkOutbox(self._abort_lost)
        self._ended: dict[str, asyncio.Future[TokenOutput]] = {}
        self._submissions: dict[str, asyncio.Task[GptossError | None]] = {}
        self._abort_keys = AbortKeys()
        self._first_tokens = WaitTimes()
        self._traces = RequestTraces(config.name, rank)
        self._num_messages = 0
        self._prepared: Transformer | None = None
        self._taken_load: tuple[tuple[int, ...], ...] = ()
        self._member: RankMember | None = None

    async def facts(self) -> RankFacts:
        """Return where this rank is and how it computes.

        Raises:
            ConfigError: No kernels run on `parallel.device`.
        """
        return await asyncio.to_thread(read_facts, self._config)

    async def free_store_port(self, host: str) -> int:
        """Return a TCP port of this node at which the ranks may meet."""
        # Imported here, as is all else that imports torch: the replica process knows this class.
        from gptoss_ray.parallel.rendezvous import free_store_port  # noqa: PLC0415

        return free_store_port(host)

    async def verify_files(self) -> None:
        """Hash the files of this node's copy of the checkpoint.

        Raises:
            CheckpointError: There is no manifest, or a file is not as it says.
        """
        from gptoss_ray.ranks.rank_facts import verify_files  # noqa: PLC0415

        def note(num_done: int, num_bytes: int) -> None:
            self._progress = LoadProgress("verifying", num_done / max(1, num_bytes))

        await asyncio.to_thread(verify_files, self._config.checkpoint, note)

    async def load(self, suppressed_token_ids: Sequence[int] = ()) -> None:
        """Load the checkpoint's part of this rank.

        Args:
            suppressed_token_ids: Ids that are never drawn.

        Raises:
            CheckpointError: A file is missing or wrong; the message names it and the tensor.
        """
        self._progress = LoadProgress("loading")
        self._engine = await asyncio.to_thread(self._make_engine, suppressed_token_ids)
        self._progress = LoadProgress("loaded", 1.0)

    async def start(self, membership: GroupMembership | None = None) -> None:
        """Get into step with the other ranks, start stepping and complete a first request.

        Args:
            membership: Who is in the group; None for a rank alone.

        Raises:
            GroupBrokenError: Another rank did not come.
            UnavailableError: The engine failed in its first step.
        """
        if membership is not None:
            self._progress = LoadProgress("joining", 1.0)
            await self._group_member().join_first(membership)
        self._start_loop()
        await self.warm_up()

    async def stand_by(self) -> None:
        """Get ready to join an epoch of a group that lives already; takes the place of `start`."""
        self._group_member()
        self._progress = LoadProgress("joining", 1.0)
        self._start_loop(is_stopped=True)

    async def warm_up(self) -> None:
        """Complete a first request; in a group, with the other ranks.

        Raises:
            UnavailableError: The engine failed in its first step.
        """
        self._progress = LoadProgress("warming up", 1.0)
        await self._complete_first_request()
        self._progress = LoadProgress("ready", 1.0)
        logger.info("rank_ready model=%s rank=%d", self._config.name, self._rank)

    async def prepare_epoch(self, change: EpochChange) -> None:
        """See `RankMember.prepare`."""
        self._prepared = None  # a swap of the present epoch
        await self._group_member().prepare(change)

    async def join_epoch(self, epoch: int) -> None:
        """See `RankMember.join`."""
        _, loop = self._running()
        await self._group_member().join(epoch, loop)

    async def renew_lease(self, call: int, heard: int, epoch: int) -> RankPulse:
        """Take a call of the replica, which may renew the lease that this rank needs to emit."""
        member, (_, loop) = self._group_member(), self._running()
        member.renew(call, heard, epoch, self._config.parallel.lease_s)
        return RankPulse(member.epoch, loop.is_in_step)

    async def wait_broken(self, epoch: int) -> None:
        """Return once an epoch that this rank has joined is over for it."""
        await self._group_member().wait_broken(epoch)

    async def progress(self) -> LoadProgress:
        """Return how far `load` is."""
        return self._progress

    async def submit(self, request: GenerationRequest) -> GptossError | None:
        """Queue a request; its outputs go to the stream of `request.sink_id`.

        Returns the refusal, if any, instead of raising it: Ray would wrap it and log a traceback.
        """
        if self._loop is None:
            return UnavailableError("The model is still loading; try again in a moment.")
        request_id = request.request_id
        if request_id in self._ended or request_id in self._submissions:
            return InvalidRequestError(f"A request with the id {request_id!r} is running; ids are unique.")
        # A caller that is cancelled sends an abort next: what it then finds must be whole.
        submission = asyncio.create_task(self._submit(request))
        self._submissions[request_id] = submission
        self._abort_keys.add(request)
        submission.add_done_callback(lambda _: self._submitted(request_id))
        return await asyncio.shield(submission)

    def _submitted(self, request_id: str) -> None:
        del self._submissions[request_id]
        if request_id not in self._ended:
            self._abort_keys.discard(request_id)

    async def _submit(self, request: GenerationRequest) -> GptossError | None:
        engine, loop = self._running()
        request_id, is_open = request.request_id, False
        try:
            # A grammar is compiled in a thread of its own, not in that of the steps.
            has_grammar = request.params.grammar is not None
            constraint = await asyncio.to_thread(engine.prepare, request) if has_grammar else None
            self._ended[request_id] = asyncio.get_running_loop().create_future()
            self._outbox.open_request(request.sink_id, request_id)
            self._first_tokens.begin(request_id)
            is_open = True
            if request.traceparent:
                await self._traces.begin(request)
            await asyncio.wrap_future(loop.submit(request, constraint))
        except Exception as error:
            if is_open:
                del self._ended[request_id]
                self._first_tokens.drop(request_id)
                self._outbox.close_request(request.sink_id, request_id)
            self._traces.drop(request_id, error)
            if isinstance(error, GptossError):
                return error
            logger.exception("submit_failed request_id=%s", request_id)
            return InternalError("The engine could not take this request; its log has the cause.")
        return None

    async def wait_ended(self, request_id: str) -> int | None:
        """Return once the request has ended, however it did; at once if it is not known.

        Returns how many tokens its output has, None where it did not run to its end.
        """
        ended = self._ended.get(request_id)
        if ended is None:
            return None
        last = await asyncio.shield(ended)
        is_whole = last.finish_reason in (FinishReason.STOP, FinishReason.LENGTH)
        return last.position + len(last.token_ids) if is_whole else None

    async def abort(self, request_id: str) -> None:
        """End a request; its blocks are free when this returns."""
        if (submission := self._submissions.get(request_id)) is not None:
            await asyncio.wait((submission,))
        if self._loop is not None:
            await asyncio.wrap_future(self._loop.abort((request_id,)))

    async def abort_key(self, key: str) -> int:
        """End the requests of a key; return how many there were."""
        request_ids = self._abort_keys.ids(key)
        for request_id in request_ids:
            await self.abort(request_id)
        return len(request_ids)

    async def token_stream(self, sink_id: str) -> AsyncGenerator[list[TokenOutput], None]:
        """Yield one list of outputs per step, or per several steps where the reader lags."""
        async for outputs in self._outbox.stream(sink_id):
            if self._member is not None:
                await self._member.covered()
            self._num_messages += 1
            yield outputs

    async def ready(self) -> bool:
        """Return whether steps complete: the warm-up did, and the present step is not overdue."""
        return self._progress.stage == "ready" and self._loop is not None and self._loop.is_responsive()

    async def stats(self) -> RankStats:
        """Return the rank's counters; UnavailableError while it loads."""
        if self._loop is None:
            raise UnavailableError("The rank is still loading; it has no counters yet.")
        return RankStats(
            rank=self._rank,
            engine=await asyncio.wrap_future(self._loop.stats()),
            num_live_requests=len(self._ended),
            num_failed_steps=self._loop.num_failed_steps,
            num_messages=self._num_messages,
            step_s=self._loop.step_s,
            first_token_s=self._first_tokens.recent_s(),
        )

    async def take_expert_load(self) -> list[list[int]]:
        """Return how often this rank's tokens chose each expert [layers][E] since the last call."""
        _, loop = self._running()
        taken, self._taken_load = self._taken_load, (await asyncio.wrap_future(loop.stats())).expert_load
        if not taken:
            return [list(layer) for layer in self._taken_load]
        layers = zip(self._taken_load, taken, strict=True)
        return [[now - before for now, before in zip(*layer, strict=True)] for layer in layers]

    async def prepare_swap(self, swap: LayerSwap) -> None:
        """Read the experts that a layer is to have here, while steps go on; one swap is prepared at a time.

        Raises:
            CheckpointError: The checkpoint is no longer what was loaded.
        """
        from gptoss_ray.ranks.rank_experts import with_swap  # noqa: PLC0415

        self._prepared = None
        engine, _ = self._running()
        checkpoint = self._config.checkpoint
        self._prepared = await asyncio.to_thread(with_swap, engine.transformer, checkpoint, swap)

    async def make_swap(self, version: int) -> None:
        """Use what was prepared, from the first step for which every rank was told; returns when it is used.

        Raises:
            UnavailableError: The group is broken.
        """
        engine, loop = self._running()
        transformer, self._prepared = self._prepared, None
        if transformer is None:
            raise UnavailableError(f"rank {self._rank} has no swap prepared; another epoch came before it.")
        await asyncio.wrap_future(loop.call(lambda: engine.stage_placement(version, transformer)))
        while (await asyncio.wrap_future(loop.stats())).placement < version:
            if not loop.is_responsive():
                raise UnavailableError(f"rank {self._rank} no longer completes its steps; see its log.")
            await asyncio.sleep(self._config.parallel.heartbeat_s)

    async def wake(self) -> None:
        """Look at once whether another rank has work, instead of at the next heartbeat."""
        if self._loop is not None:
            self._loop.wake()

    def stop(self) -> None:
        """End the step loop, and leave the group."""
        if self._loop is not None:
            self._loop.stop()
        if self._link is not None:
            self._link.leave()

    def _make_engine(self, suppressed_token_ids: Sequence[int]) -> SteppedEngine:
        load = self._load_engine
        if load is None:
            from gptoss_ray.ranks.engine_loader import load_engine  # noqa: PLC0415

            load = load_engine
        if self._config.parallel.num_ranks > 1:
            from gptoss_ray.parallel.group_link import GroupLink  # noqa: PLC0415

            self._link = GroupLink(self._rank, self._config.parallel)
        engine = load(self._config, self._rank, self._link, suppressed_token_ids, self._note_fraction)
        # Takes seconds once, in which no Python runs; a model without harmony's vocabulary has no grammars.
        with suppress(InvalidRequestError):
            engine.prepare(_FIRST_GRAMMAR)
        return engine

    def _running(self) -> tuple[SteppedEngine, StepLoop]:
        assert self._engine is not None and self._loop is not None, "start comes first"
        return self._engine, self._loop

    def _note_fraction(self, fraction: float) -> None:
        self._progress = LoadProgress("loading", fraction)

    def _group_member(self) -> RankMember:
        if self._member is None:
            assert self._engine is not None, "load comes first"
            assert self._link is not None, "only the ranks of a group have epochs"
            self._member = RankMember(self._config.checkpoint, self._link, self._engine)
        return self._member

    def _start_loop(self, *, is_stopped: bool = False) -> None:
        event_loop = asyncio.get_running_loop()

        def deliver(batches: Batches) -> None:
            event_loop.call_soon_threadsafe(self._deliver, batches)

        def note_broken() -> None:
            if (member := self._member) is not None:
                event_loop.call_soon_threadsafe(member.note_broken, member.linked_epoch)

        assert self._engine is not None, "load comes first"
        heals = self._config.parallel.heals_in_place
        self._loop = StepLoop(
            self._engine,
            deliver,
            epoch_wait_s=self._config.startup_timeout_s if heals else 0.0,
            on_broken=note_broken,
            is_stopped=is_stopped,
        )
        self._loop.start()

    async def _complete_first_request(self) -> None:
        assert self._loop is not None
        ended = self._ended[_WARM_UP.request_id] = asyncio.get_running_loop().create_future()
        await asyncio.wrap_future(self._loop.submit(_WARM_UP))
        # A step that failed and went well when it was tried again is no harm, nor is an epoch that broke.
        if (await ended).error is not None:
            raise UnavailableError("The engine failed in its first step; the rank's log has the cause.")

    def _deliver(self, batches: Batches) -> None:
        self._outbox.deliver(batches)
        for outputs in batches.values():
            for output in outputs:
                if output.token_ids:
                    self._first_tokens.end(output.request_id)
                if self._traces:
                    self._traces.take(output)
                if output.finish_reason is not None:
                    self._first_tokens.drop(output.request_id)
                    self._ended.pop(output.request_id).set_result(output)
                    self._abort_keys.discard(output.request_id)

    def _abort_lost(self, request_ids: Iterable[str]) -> None:
        if self._loop is not None:
            self._loop.abort(request_ids)
