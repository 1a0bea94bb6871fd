"""An engine that replays given tokens in place of a model: for tests and measures of all that is above it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import NoReturn

from gptoss_ray.engine.engine_stats import EngineStats
from gptoss_ray.engine.scripted_sequence import ScriptedSequence
from gptoss_ray.engine.token_constraint import TokenConstraint
from gptoss_ray.errors import InvalidRequestError
from gptoss_ray.generation import GenerationRequest, TokenOutput
from gptoss_ray.parallel.step_sync import LocalStepSync, StepAgreement, StepDemand, StepSync

Script = Callable[[GenerationRequest], Iterable[int]]
"""A request to the tokens of its answer, from the first on; endless ones end by the request's limits."""


class ScriptedEngine:
    """Takes the place of an `Engine` in a rank: one token of every request a step.

    Args:
        script: Plays every request. A resumed one goes on behind its emitted tokens.
        step_s: How long a step takes, from the end of the one before; the first after a pause, or after a
            step that was late, from when it begins.
        step_sync: How steps are agreed on with the other ranks.
    """

    def __init__(self, script: Script, *, step_s: float = 0.0, step_sync: StepSync | None = None) -> None:
        self._script = script
        self._step_s = step_s
        self._step_due_s = 0.0
        self._step_sync = step_sync or LocalStepSync()
        self._live: dict[str, tuple[ScriptedSequence, Iterator[int]]] = {}
        self._num_steps = 0
        self._num_prompt_tokens = 0
        self._num_generation_tokens = 0

    @property
    def heartbeat_s(self) -> float | None:
        """See `Engine.heartbeat_s`."""
        return self._step_sync.heartbeat_s

    @property
    def transformer(self) -> NoReturn:
        """There is none; a rank asks only where experts move."""
        raise TypeError("a scripted engine has no network")

    def stage_placement(self, version: int, transformer: object) -> NoReturn:
        """Refuse other experts; a rank stages them only where experts move."""
        raise TypeError(f"a scripted engine cannot use placement {version} of {type(transformer).__name__}")

    def drop_steps(self) -> NoReturn:
        """Refuse to leave an epoch; a scripted engine is alone."""
        raise TypeError("a scripted engine is in no group")

    def change_epoch(self, version: int, transformer: object) -> NoReturn:
        """Refuse other ranks; a scripted engine is alone."""
        raise TypeError(f"a scripted engine cannot use placement {version} of {type(transformer).__name__}")

    def prepare(self, request: GenerationRequest) -> None:
        """See `Engine.prepare`; a script follows a grammar or not, as it was written."""

    def submit(
        self,
        request: GenerationRequest,
        constraint: TokenConstraint | None = None,  # noqa: ARG002
    ) -> None:
        """Start a request in the next step; raise InvalidRequestError where its id is in use."""
        if request.request_id in self._live:
            raise InvalidRequestError(
                f"Request id {request.request_id} is in use; choose one that no live request has.",
                param="request_id",
            )
        token_ids = islice(self._script(request), len(request.emitted_token_ids), None)
        self._live[request.request_id] = (ScriptedSequence(request), token_ids)
        self._num_prompt_tokens += len(request.prompt_token_ids)

    def abort(self, request_id: str) -> bool:
        """Forget a request; False when it is not here."""
        return self._live.pop(request_id, None) is not None

    def agree(self, *, is_leaving: bool = False) -> StepAgreement:
        """See `Engine.agree`."""
        return self._step_sync.agree(StepDemand(len(self._live), 0, is_leaving=is_leaving))

    def run(self, agreement: StepAgreement) -> list[TokenOutput]:
        """Return the next token of every request, or the end of its script."""
        if not agreement.runs:
            return []
        self._wait_until_due()
        self._num_steps += 1
        outputs = [self._next(*live) for live in self._live.values()]
        for output in outputs:
            self._num_generation_tokens += len(output.token_ids)
            if output.finish_reason is not None:
                del self._live[output.request_id]
        return outputs

    def blame(self) -> tuple[str, ...]:
        """See `Engine.blame`; whatever fails in a script fails all."""
        return tuple(self._live)

    def stats(self) -> EngineStats:
        """Load and totals as of now; there is no KV cache."""
        return EngineStats(
            num_running=len(self._live),
            num_waiting=0,
            kv_cache_usage=0.0,
            prefix_cache_queries=0,
            prefix_cache_hits=0,
            num_steps=self._num_steps,
            num_prompt_tokens=self._num_prompt_tokens,
            num_generation_tokens=self._num_generation_tokens,
            num_preemptions=0,
            placement=0,
        )

    def close(self) -> None:
        """See `Engine.close`; there are no threads."""

    def _wait_until_due(self) -> None:
        now_s = time.monotonic()
        due_s = self._step_due_s + self._step_s
        self._step_due_s = due_s if due_s > now_s else now_s + self._step_s
        time.sleep(self._step_due_s - now_s)

    def _next(self, sequence: ScriptedSequence, token_ids: Iterator[int]) -> TokenOutput:
        drawn: Sequence[int] = list(islice(token_ids, 1))
        return sequence.take(drawn) if drawn else sequence.end()
