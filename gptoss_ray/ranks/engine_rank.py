"""EngineRank: the Ray actor around one engine. No Ray call stands inside a step."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from gptoss_ray.config import ServedModelConfig
from gptoss_ray.errors import GptossError, InternalError, InvalidRequestError, UnavailableError
from gptoss_ray.generation import GenerationRequest, SamplingParams, TokenOutput
from gptoss_ray.ranks.load_progress import LoadProgress
from gptoss_ray.ranks.sink_outbox import SinkOutbox
from gptoss_ray.ranks.step_loop import Batches, StepLoop, SteppedEngine

logger = logging.getLogger(__name__)

LoadEngine = Callable[[ServedModelConfig, Sequence[int], Callable[[float], None]], SteppedEngine]

_WARM_UP = GenerationRequest(
    request_id="warm-up", prompt_token_ids=(0, 0), params=SamplingParams(max_tokens=2), sink_id=""
)


@dataclass(frozen=True, slots=True)
class RankStats:
    """What a rank reports of itself; `engine` is the engine's own `EngineStats`."""

    engine: Any
    num_live_requests: int
    num_failed_steps: int
    num_messages: int
    """Batches handed to token streams so far."""


class EngineRank:
    """Loads an engine, runs its step loop in a thread and streams its outputs to the ingress replicas.

    All methods are coroutines of the actor's event loop; `load` comes first.

    Args:
        config: The model to serve.
        load: Makes the engine; the default reads the checkpoint.
    """

    def __init__(self, config: ServedModelConfig, load: LoadEngine | None = None) -> None:
        self._config = config
        self._load_engine = load
        self._progress = LoadProgress("importing")
        self._loop: StepLoop | None = None
        self._outbox = SinkOutbox(self._abort_lost)
        self._ended: dict[str, asyncio.Future[None]] = {}
        self._num_messages = 0

    async def load(self, suppressed_token_ids: Sequence[int] = ()) -> None:
        """Load the checkpoint, start stepping and complete a first request.

        Args:
            suppressed_token_ids: Ids that are never drawn.

        Raises:
            CheckpointError: A file is missing or wrong; the message names it and the tensor.
            UnavailableError: The engine failed in its first step.
        """
        event_loop = asyncio.get_running_loop()

        def deliver(batches: Batches) -> None:
            event_loop.call_soon_threadsafe(self._deliver, batches)

        engine = await asyncio.to_thread(self._make_engine, suppressed_token_ids)
        self._progress = LoadProgress("warming up", 1.0)
        self._loop = StepLoop(engine, deliver)
        self._loop.start()
        await self._warm_up()
        self._progress = LoadProgress("ready", 1.0)
        logger.info("rank_ready model=%s", self._config.name)

    async def progress(self) -> LoadProgress:
        """Return how far `load` is."""
        return self._progress

    async def submit(self, request: GenerationRequest) -> GptossError | None:
        """Queue a request; its outputs go to the stream of `request.sink_id`.

        Returns the refusal, if any, instead of raising it: Ray would wrap it and log a traceback.
        """
        if self._loop is None:
            return UnavailableError("The model is still loading; try again in a moment.")
        if request.request_id in self._ended:
            return InvalidRequestError(
                f"A request with the id {request.request_id!r} is running; ids are unique."
            )
        # A caller that is cancelled sends an abort next: what it then finds must be whole.
        return await asyncio.shield(self._submit(self._loop, request))

    async def _submit(self, loop: StepLoop, request: GenerationRequest) -> GptossError | None:
        request_id = request.request_id
        self._ended[request_id] = asyncio.get_running_loop().create_future()
        self._outbox.open_request(request.sink_id, request_id)
        try:
            await asyncio.wrap_future(loop.submit(request))
        except Exception as error:
            del self._ended[request_id]
            self._outbox.close_request(request.sink_id, request_id)
            if isinstance(error, GptossError):
                return error
            logger.exception("submit_failed request_id=%s", request_id)
            return InternalError("The engine could not take this request; its log has the cause.")
        return None

    async def wait_ended(self, request_id: str) -> None:
        """Return once the request has ended, however it did; at once if it is not known."""
        ended = self._ended.get(request_id)
        if ended is not None:
            await asyncio.shield(ended)

    async def abort(self, request_id: str) -> None:
        """End a request; its blocks are free when this returns."""
        if self._loop is not None:
            await asyncio.wrap_future(self._loop.abort((request_id,)))

    async def token_stream(self, sink_id: str) -> AsyncGenerator[list[TokenOutput], None]:
        """Yield one list of outputs per step, or per several steps where the reader lags."""
        async for outputs in self._outbox.stream(sink_id):
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
            engine=await asyncio.wrap_future(self._loop.stats()),
            num_live_requests=len(self._ended),
            num_failed_steps=self._loop.num_failed_steps,
            num_messages=self._num_messages,
        )

    def stop(self) -> None:
        """End the step loop."""
        if self._loop is not None:
            self._loop.stop()

    def _make_engine(self, suppressed_token_ids: Sequence[int]) -> SteppedEngine:
        load = self._load_engine
        if load is None:
            # Imported here: the replica process knows this class but must not pay for torch.
            from gptoss_ray.ranks.engine_loader import load_engine  # noqa: PLC0415

            load = load_engine
        self._progress = LoadProgress("loading")
        return load(self._config, suppressed_token_ids, self._note_fraction)

    def _note_fraction(self, fraction: float) -> None:
        self._progress = LoadProgress("loading", fraction)

    async def _warm_up(self) -> None:
        assert self._loop is not None
        ended = self._ended[_WARM_UP.request_id] = asyncio.get_running_loop().create_future()
        await asyncio.wrap_future(self._loop.submit(_WARM_UP))
        await ended
        if self._loop.num_failed_steps:
            raise UnavailableError("The engine failed in its first step; the rank's log has the cause.")

    def _deliver(self, batches: Batches) -> None:
        self._outbox.deliver(batches)
        for outputs in batches.values():
            for output in outputs:
                if output.finish_reason is not None:
                    self._ended.pop(output.request_id).set_result(None)

    def _abort_lost(self, request_ids: Iterable[str]) -> None:
        if self._loop is not None:
            self._loop.abort(request_ids)
