"""An engine that counts: every request gets the tokens 0, 1, 2 … one a step, faults on demand."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from gptoss_ray.errors import InvalidRequestError
from gptoss_ray.generation import FinishReason, GenerationRequest, TokenOutput
from gptoss_ray.parallel.step_sync import LocalStepSync, StepAgreement, StepDemand, StepSync


@dataclass
class CountingEngine:
    """Satisfies `SteppedEngine`; `faults` are raised by the next steps, first to last.

    A request with the grammar "slow" is prepared once `may_prepare` is set.
    """

    step_s: float = 0.0
    faults: list[Exception] = field(default_factory=list)
    requests: dict[str, GenerationRequest] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    step_sync: StepSync = field(default_factory=LocalStepSync)
    num_agree_calls: int = 0
    may_prepare: threading.Event = field(default_factory=threading.Event)
    has_just_failed: bool = False
    is_closed: bool = False
    transformer: object = "the first epoch's"
    placement: int = 0
    on_drop: Callable[[], None] = lambda: None

    @property
    def heartbeat_s(self) -> float | None:
        return self.step_sync.heartbeat_s

    def agree(self, *, is_leaving: bool = False) -> StepAgreement:
        self.num_agree_calls += 1
        return self.step_sync.agree(StepDemand(len(self.requests), 0, is_leaving=is_leaving))

    def prepare(self, request: GenerationRequest) -> None:
        if request.params.grammar == "wrong":
            raise InvalidRequestError("The grammar is wrong.", param="grammar")
        assert request.params.grammar != "slow" or self.may_prepare.wait(10)

    def submit(self, request: GenerationRequest, constraint: object = None) -> None:
        if 666 in request.prompt_token_ids:
            raise InvalidRequestError("666 is out of range.", param="prompt")
        self.requests[request.request_id] = request
        self.counts[request.request_id] = len(request.emitted_token_ids)

    def abort(self, request_id: str) -> bool:
        return self.requests.pop(request_id, None) is not None

    def run(self, agreement: StepAgreement) -> list[TokenOutput]:
        if not agreement.runs:
            return []
        time.sleep(self.step_s)
        if self.faults:
            raise self.faults.pop(0)
        self.has_just_failed = False
        return [self._next(request) for request in list(self.requests.values())]

    def drop_steps(self) -> None:
        self.on_drop()

    def change_epoch(self, version: int, transformer: object) -> None:
        self.placement, self.transformer = version, transformer

    def blame(self) -> tuple[str, ...]:
        """All, of the second step in a row that fails."""
        self.has_just_failed = not self.has_just_failed
        return () if self.has_just_failed else tuple(self.requests)

    def stats(self) -> dict[str, int]:
        return {"num_running": len(self.requests)}

    def close(self) -> None:
        self.is_closed = True

    def _next(self, request: GenerationRequest) -> TokenOutput:
        position = self.counts[request.request_id]
        self.counts[request.request_id] = position + 1
        is_last = position + 1 >= request.params.max_tokens
        if is_last:
            del self.requests[request.request_id]
        reason = FinishReason.LENGTH if is_last else None
        return TokenOutput(request.request_id, position, (position,), finish_reason=reason)
