"""The thread that steps an engine: run what the inbox asks, agree with the other ranks, step, deliver.

What it does next is decided by the state machine of `parallel/lockstep.py`, for a rank alone as for one
of a group.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from gptoss_ray.errors import (
    GptossError,
    GroupBrokenError,
    InternalError,
    RequestLostError,
    StepFailedError,
    UnavailableError,
)
from gptoss_ray.generation import FinishReason, GenerationRequest, TokenOutput
from gptoss_ray.parallel.lockstep import FIRST_PHASE, Event, Phase, agreed, next_phase
from gptoss_ray.parallel.step_sync import StepAgreement

if TYPE_CHECKING:
    from gptoss_ray.engine.token_constraint import TokenConstraint
    from gptoss_ray.model.transformer import Transformer

logger = logging.getLogger(__name__)

Result = TypeVar("Result")
Batches = dict[str, list[TokenOutput]]
"""Outputs of one step, by sink id."""

MIN_STEP_DEADLINE_S = 30.0
STEP_DEADLINE_FACTOR = 10.0

_LOST_RANK = "The group that worked on this request lost a rank; send the request again."


class SteppedEngine(Protocol):
    """What the loop needs of an engine; only the loop's thread touches it, but for `prepare`."""

    @property
    def heartbeat_s(self) -> float | None:
        """Longest wait before `agree` is called again; None: a rank alone, for which nobody waits."""
        ...

    def prepare(self, request: GenerationRequest) -> TokenConstraint | None:
        """Do what may take long before `submit`, in any thread; GptossError where the request is refused."""
        ...

    def submit(self, request: GenerationRequest, constraint: TokenConstraint | None = None) -> None:
        """Queue a request with what `prepare` returned; raises a GptossError where it is refused."""
        ...

    def abort(self, request_id: str) -> bool:
        """Drop a request and free its blocks; False where it is not known."""
        ...

    def agree(self, *, is_leaving: bool = False) -> StepAgreement:
        """Agree with the other ranks on what all do next; GroupBrokenError where one is lost."""
        ...

    def run(self, agreement: StepAgreement) -> list[TokenOutput]:
        """Do what was agreed and return the new tokens; GroupBrokenError where a rank is lost."""
        ...

    def blame(self) -> tuple[str, ...]:
        """Return whose requests are to fail for the step that has just failed; none: it is tried again."""
        ...

    def stats(self) -> Any:
        """Return the engine's counters."""
        ...

    @property
    def transformer(self) -> Transformer:
        """The network in use, of a rank whose experts can be swapped."""
        ...

    def stage_placement(self, version: int, transformer: Transformer) -> None:
        """Use another network from the step for which all ranks have staged this version."""
        ...

    def drop_steps(self) -> None:
        """Let go of what is under way, before the rank leaves its epoch."""
        ...

    def change_epoch(self, version: int, transformer: Transformer) -> None:
        """Go on among other ranks, with other experts."""
        ...

    def close(self) -> None:
        """End what the engine has started; nothing is called afterwards."""
        ...


@dataclass
class _LiveRequest:
    sink_id: str
    next_position: int


@dataclass(frozen=True)
class _Call:
    """What another thread asks for, and what it is to the state machine where it succeeds."""

    run: Callable[[], bool]
    event: Event | None


class StepLoop:
    """Owns an engine and its thread. Its public methods may be called from any thread.

    A step that fails is tried again, in a group in its next epoch, until it is known which request is to
    blame (`Engine.blame`); that one fails. A group that loses a rank, or on which a step fails, is broken.
    Its requests wait for the next epoch, and new ones with them, up to a time; then they end with an error
    that says they can be sent again, and no others are taken.

    Args:
        engine: Touched by the loop's thread alone.
        deliver: Called by the loop's thread at most once per step with that step's outputs by sink.
        epoch_wait_s: How long to wait for the next epoch of a group that broke.
        on_broken: Called by the loop's thread when the group has broken.
        is_stopped: Begin without a group, and wait for its first epoch.
    """

    def __init__(
        self,
        engine: SteppedEngine,
        deliver: Callable[[Batches], None],
        *,
        epoch_wait_s: float = 0.0,
        on_broken: Callable[[], None] = lambda: None,
        is_stopped: bool = False,
    ) -> None:
        self._engine = engine
        self._deliver = deliver
        self._inbox: queue.SimpleQueue[_Call] = queue.SimpleQueue()
        self._live: dict[str, _LiveRequest] = {}
        self._thread = threading.Thread(target=self._run, name="step-loop", daemon=True)
        self._phase = Phase.STOPPED if is_stopped else FIRST_PHASE
        self._epoch_wait_s = epoch_wait_s
        self._on_broken = on_broken
        self._gives_up_at = time.monotonic() + epoch_wait_s
        self._has_given_up = False
        self.is_in_step = False
        self._agreement: StepAgreement | None = None
        self._is_leaving = False
        self._step_started_at: float | None = None
        self._longest_step_s = 0.0
        self.num_steps = 0
        self.step_s = 0.0
        self.num_failed_steps = 0

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self, timeout_s: float = 5.0) -> None:
        """End the thread after the step it is in; in a group, once every rank has been asked to stop."""
        self._call(self._leave, Event.ASKED_TO_LEAVE)
        self._thread.join(timeout_s)

    def wake(self) -> None:
        """Meet the other ranks now, as one of them has got a request; without it they wait a heartbeat."""
        self._inbox.put(_Call(lambda: True, Event.WOKEN))

    def submit(self, request: GenerationRequest, constraint: TokenConstraint | None = None) -> Future[None]:
        """Hand a request to the engine before its next step; the future raises where it is refused."""
        return self._call(lambda: self._submit(request, constraint), Event.SUBMITTED)

    def abort(self, request_ids: Iterable[str]) -> Future[None]:
        """Abort those of the requests that still live; each ends with `FinishReason.ABORT`."""
        ids = tuple(request_ids)
        return self._call(lambda: self._abort(ids))

    def call(self, function: Callable[[], Result]) -> Future[Result]:
        """Run a short function in the loop's thread between two steps; the future has what it makes of it."""
        return self._call(function)

    def change_epoch(self, join: Callable[[], None]) -> Future[None]:
        """Run `join` between two steps, which brings engine and group into their next epoch; then go on.

        The future raises what `join` does, and UnavailableError where the requests have ended already.
        """
        return self._call(lambda: self._change_epoch(join), Event.EPOCH_CHANGED)

    def stats(self) -> Future[Any]:
        """Read the engine's counters between two steps."""
        return self._call(self._engine.stats)

    def is_responsive(self) -> bool:
        """Return whether steps complete: one has, the present one is not overdue, no group was given up."""
        started_at = self._step_started_at
        if self.num_steps == 0 or self._has_given_up or not self._thread.is_alive():
            return False
        deadline_s = max(MIN_STEP_DEADLINE_S, STEP_DEADLINE_FACTOR * self._longest_step_s)
        return started_at is None or time.monotonic() - started_at < deadline_s

    def _call(self, function: Callable[[], Result], event: Event | None = None) -> Future[Result]:
        """Run a function in the loop's thread, between two steps, even if the caller stops waiting."""
        future: Future[Result] = Future()

        def run() -> bool:
            is_awaited = future.set_running_or_notify_cancel()
            try:
                result = function()
            except Exception as error:
                if is_awaited:
                    future.set_exception(error)
                return False
            if is_awaited:
                future.set_result(result)
            return True

        self._inbox.put(_Call(run, event))
        return future

    # The thread

    def _run(self) -> None:
        actions: dict[Phase, Callable[[], None]] = {
            Phase.SYNCING: self._sync,
            Phase.STEPPING: self._step,
            Phase.WAITING: self._wait,
            Phase.STOPPED: self._stand_by,
        }
        while not (self._phase is Phase.STOPPED and self._is_leaving):
            actions[self._phase]()
        self._engine.close()

    def _happened(self, event: Event) -> None:
        self._phase = next_phase(self._phase, event)

    def _answer(self, timeout_s: float | None = None) -> None:
        """Run the next call of the inbox, if one comes in time."""
        try:
            call = self._inbox.get(timeout=timeout_s)
        except queue.Empty:
            return
        succeeded = call.run()
        counts = self._phase is not Phase.STOPPED or call.event is Event.EPOCH_CHANGED
        if succeeded and call.event is not None and counts:
            self._happened(call.event)

    def _sync(self) -> None:
        while not self._inbox.empty():
            self._answer()
        try:
            self._agreement = self._engine.agree(is_leaving=self._is_leaving)
        except GroupBrokenError as error:
            self._lose_group(error)
            return
        except Exception:
            self._step_failed()
            return
        self.is_in_step = True
        self._happened(agreed(self._agreement))
        if self._phase is Phase.WAITING:
            self._emit(self._engine.run(self._agreement))  # requests that were complete when they came

    def _wait(self) -> None:
        """Run calls until one of them, or the heartbeat, ends the wait."""
        heartbeat_s = self._engine.heartbeat_s
        ends_at = None if heartbeat_s is None else time.monotonic() + heartbeat_s
        while self._phase is Phase.WAITING:
            left_s = None if ends_at is None else ends_at - time.monotonic()
            if left_s is not None and left_s <= 0:
                self._happened(Event.HEARTBEAT_DUE)
            else:
                self._answer(left_s)

    def _step(self) -> None:
        assert self._agreement is not None
        started_at = self._step_started_at = time.monotonic()
        try:
            outputs = self._engine.run(self._agreement)
        except GroupBrokenError as error:
            self._lose_group(error)
            return
        except Exception:
            self._step_failed()
            self._happened(Event.STEP_DONE)
            return
        finally:
            self._step_started_at = None
        took_s = time.monotonic() - started_at
        self._longest_step_s = max(self._longest_step_s, took_s)
        self.step_s += took_s
        self.num_steps += 1
        self._emit(outputs)
        self._happened(Event.STEP_DONE)

    def _step_failed(self) -> None:
        """Drop the step, which will be tried again; end those requests that the engine blames for it."""
        self.num_failed_steps += 1
        to_blame = self._engine.blame()
        if not to_blame:
            logger.exception("step_failed action=retry num_requests=%d", len(self._live))
            return
        logger.exception("step_failed action=fail_requests request_ids=%s", ",".join(to_blame))
        error = InternalError("The engine failed while it worked on this request; its log has the cause.")
        self._end(to_blame, FinishReason.ERROR, error)

    def _lose_group(self, error: GroupBrokenError) -> None:
        """Wait for the next epoch: nothing of the step was committed, so all sequences are as before it."""
        logger.error("group_broken num_requests=%d reason=%s", len(self._live), error)
        if isinstance(error, StepFailedError):
            self._step_failed()
        else:
            self.num_failed_steps += 1
        self.is_in_step = False
        self._happened(Event.GROUP_LOST)
        self._gives_up_at = time.monotonic() + self._epoch_wait_s
        self._on_broken()

    def _stand_by(self) -> None:
        """Run the next call; where no epoch comes in time, give up."""
        left_s = self._gives_up_at - time.monotonic()
        if self._has_given_up:
            self._answer()
        elif left_s > 0:
            self._answer(left_s)
        else:
            self._give_up()

    def _give_up(self) -> None:
        """End all requests: whoever sent them may send them again, to another group."""
        self._has_given_up = True
        self._end(tuple(self._live), FinishReason.ERROR, RequestLostError(_LOST_RANK))

    # Calls

    def _submit(self, request: GenerationRequest, constraint: TokenConstraint | None) -> None:
        if self._has_given_up:
            raise UnavailableError(_LOST_RANK)
        self._engine.submit(request, constraint)
        self._live[request.request_id] = _LiveRequest(request.sink_id, len(request.emitted_token_ids))

    def _change_epoch(self, join: Callable[[], None]) -> None:
        if self._has_given_up:
            raise UnavailableError(_LOST_RANK)
        join()
        self.is_in_step = False

    def _abort(self, request_ids: tuple[str, ...]) -> None:
        self._end(tuple(id_ for id_ in request_ids if id_ in self._live), FinishReason.ABORT, None)

    def _leave(self) -> None:
        self._is_leaving = True

    # Outputs

    def _end(self, request_ids: tuple[str, ...], reason: FinishReason, error: GptossError | None) -> None:
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
