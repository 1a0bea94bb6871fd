"""The thread that steps an engine: run what the inbox asks, step, deliver, repeat."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from gptoss_ray.errors import InternalError
from gptoss_ray.generation import FinishReason, GenerationRequest, TokenOutput

logger = logging.getLogger(__name__)

Result = TypeVar("Result")
Batches = dict[str, list[TokenOutput]]
"""Outputs of one step, by sink id."""

MIN_STEP_DEADLINE_S = 30.0
STEP_DEADLINE_FACTOR = 10.0


class SteppedEngine(Protocol):
    """What the loop needs of an engine; only the loop's thread touches it."""

    @property
    def has_work(self) -> bool:
        """Whether a step would do anything."""
        ...

    def submit(self, request: GenerationRequest) -> None:
        """Queue a request; raises a GptossError where it is refused."""
        ...

    def abort(self, request_id: str) -> bool:
        """Drop a request and free its blocks; False where it is not known."""
        ...

    def step(self) -> list[TokenOutput]:
        """Advance the scheduled sequences and return their new tokens."""
        ...

    def stats(self) -> Any:
        """Return the engine's counters."""
        ...


@dataclass
class _LiveRequest:
    sink_id: str
    next_position: int


class StepLoop:
    """Owns an engine and its thread. Its public methods may be called from any thread.

    Args:
        engine: Touched by the loop's thread alone.
        deliver: Called by the loop's thread at most once per step with that step's outputs by sink.
    """

    def __init__(self, engine: SteppedEngine, deliver: Callable[[Batches], None]) -> None:
        self._engine = engine
        self._deliver = deliver
        self._inbox: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._live: dict[str, _LiveRequest] = {}
        self._thread = threading.Thread(target=self._run, name="step-loop", daemon=True)
        self._stopping = False
        self._last_step_failed = False
        self._step_started_at: float | None = None
        self._longest_step_s = 0.0
        self.num_steps = 0
        self.num_failed_steps = 0

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self, timeout_s: float = 5.0) -> None:
        """End the thread after the step it is in."""
        self._call(self._stop)
        self._thread.join(timeout_s)

    def submit(self, request: GenerationRequest) -> Future[None]:
        """Hand a request to the engine before its next step; the future raises where it is refused."""
        return self._call(lambda: self._submit(request))

    def abort(self, request_ids: Iterable[str]) -> Future[None]:
        """Abort those of the requests that still live; each ends with `FinishReason.ABORT`."""
        ids = tuple(request_ids)
        return self._call(lambda: self._abort(ids))

    def stats(self) -> Future[Any]:
        """Read the engine's counters between two steps."""
        return self._call(self._engine.stats)

    def is_responsive(self) -> bool:
        """Return whether steps complete: at least one has, and the present one is not overdue."""
        started_at = self._step_started_at
        if self.num_steps == 0 or not self._thread.is_alive():
            return False
        deadline_s = max(MIN_STEP_DEADLINE_S, STEP_DEADLINE_FACTOR * self._longest_step_s)
        return started_at is None or time.monotonic() - started_at < deadline_s

    def _call(self, function: Callable[[], Result]) -> Future[Result]:
        """Run a function in the loop's thread, between two steps, even if the caller stops waiting."""
        future: Future[Result] = Future()

        def run() -> None:
            is_awaited = future.set_running_or_notify_cancel()
            try:
                result = function()
            except Exception as error:
                if is_awaited:
                    future.set_exception(error)
            else:
                if is_awaited:
                    future.set_result(result)

        self._inbox.put(run)
        return future

    def _run(self) -> None:
        while not self._stopping:
            self._drain_inbox()
            if self._engine.has_work and not self._stopping:
                self._step()

    def _drain_inbox(self) -> None:
        """Run all that is asked; with nothing to step, sleep until something is."""
        if not self._engine.has_work:
            self._inbox.get()()
        while not self._inbox.empty():
            self._inbox.get()()

    def _step(self) -> None:
        started_at = self._step_started_at = time.monotonic()
        try:
            outputs = self._engine.step()
        except Exception:
            self._step_failed()
            return
        finally:
            self._step_started_at = None
        self._longest_step_s = max(self._longest_step_s, time.monotonic() - started_at)
        self._last_step_failed = False
        self.num_steps += 1
        self._emit(outputs)

    def _step_failed(self) -> None:
        """Drop the step: it is tried once more, then the requests that the engine holds fail."""
        self.num_failed_steps += 1
        if not self._last_step_failed:
            self._last_step_failed = True
            logger.exception("step_failed action=retry num_requests=%d", len(self._live))
            return
        self._last_step_failed = False
        logger.exception("step_failed action=fail_requests request_ids=%s", ",".join(self._live))
        error = InternalError("The engine failed while it worked on this request; its log has the cause.")
        self._end(tuple(self._live), FinishReason.ERROR, error)

    def _submit(self, request: GenerationRequest) -> None:
        self._engine.submit(request)
        self._live[request.request_id] = _LiveRequest(request.sink_id, len(request.emitted_token_ids))

    def _abort(self, request_ids: tuple[str, ...]) -> None:
        self._end(tuple(id_ for id_ in request_ids if id_ in self._live), FinishReason.ABORT, None)

    def _end(self, request_ids: tuple[str, ...], reason: FinishReason, error: InternalError | None) -> None:
        """Take requests out of the engine and tell their sinks."""
        for request_id in request_ids:
            try:
                self._engine.abort(request_id)
            except Exception:
                logger.exception("abort_failed request_id=%s", request_id)
        self._emit(
            TokenOutput(id_, self._live[id_].next_position, finish_reason=reason, error=error)
            for id_ in request_ids
        )

    def _emit(self, outputs: Iterable[TokenOutput]) -> None:
        batches: Batches = {}
        for output in outputs:
            live = self._live[output.request_id]
            live.next_position = output.position + len(output.token_ids)
            batches.setdefault(live.sink_id, []).append(output)
            if output.finish_reason is not None:
                del self._live[output.request_id]
        if batches:
            self._deliver(batches)

    def _stop(self) -> None:
        self._stopping = True
