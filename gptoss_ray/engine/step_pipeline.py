"""Plan, launch, commit: a step at a time, the next one launched before the present one is read.

What a step draws stays on the device, where the step behind it finds it. So while a device computes step n,
the host agrees on step n + 1 with the other ranks, plans and launches it, and then reads and commits n::

    host     agree, plan n+1, launch │ wait n │ commit n, answer │ agree, plan n+2, launch │ wait n+1 │ …
    device   … step n ──────────────────────▶│ step n+1 ─────────────────────────────────────────────▶│ …

Nothing of the law changes: `commit` is the only place where a sequence advances. A plan made ahead stands on
what the step before will leave for certain; what of it turns out to be in vain is passed over. Each rank of
a group decides for itself whether it reads a step before it tells what it would do next: the others then wait
for it in the agreement, and launch the same step. A step that fails takes the one behind it along.
"""

from __future__ import annotations

import logging

from gptoss_ray.engine.scheduler import Scheduler
from gptoss_ray.engine.step_executor import LaunchedStep, StepExecutor
from gptoss_ray.engine.step_plan import StepPlan
from gptoss_ray.generation import TokenOutput
from gptoss_ray.parallel.step_sync import StepAgreement, StepDemand

logger = logging.getLogger(__name__)


class StepPipeline:
    """The steps of one rank between their plan and their commit.

    Args:
        scheduler: Plans and commits.
        executor: Computes.
        is_alone: No other rank takes part in the steps, so that a launch may be tried again.

    Attributes:
        plan: Of the step that was launched or read last, if that failed.
    """

    def __init__(self, scheduler: Scheduler, executor: StepExecutor, *, is_alone: bool) -> None:
        self._scheduler = scheduler
        self._executor = executor
        self._is_alone = is_alone
        self._steps: list[LaunchedStep] = []
        self._outputs: list[TokenOutput] = []
        self._committed: list[StepPlan] = []
        self.plan: StepPlan | None = None

    @property
    def has_outputs(self) -> bool:
        """Whether the next `take_outputs` returns any."""
        return bool(self._outputs)

    def demand(self) -> StepDemand:
        """What the next step is to do; where that depends on the step under way, it is read first."""
        self.plan = None
        if self._steps:
            ahead = self._scheduler.demand_ahead(self._steps[-1].plan)
            if ahead.has_work or self._scheduler.is_idle:
                return ahead
            self.settle()
        return self._scheduler.demand()

    def run(self, agreement: StepAgreement) -> None:
        """Launch the agreed step, then read the one before; itself too, where nothing can be behind it."""
        if not self._launch_behind(agreement):
            self.settle()
            plan = self._scheduler.schedule(agreement.max_prefill_tokens, is_urgent=agreement.is_urgent)
            self._launch(plan, agreement)
        newest = self._steps[-1]
        while self._steps[0] is not newest:
            self._read()
        if not (newest.can_be_followed and self._scheduler.can_plan_ahead):
            self._read()

    def settle(self) -> None:
        """Read and commit what is under way."""
        while self._steps:
            self._read()

    def take_outputs(self) -> list[TokenOutput]:
        """Return what committed steps have made since the last call, in order."""
        outputs, self._outputs = self._outputs, []
        return outputs

    def take_committed(self) -> list[StepPlan]:
        """Return the plans that were committed since the last call, and hold on to none of them."""
        committed, self._committed = self._committed, []
        return committed

    def forget(self, request_id: str) -> None:
        """Return no output of a request that was aborted."""
        self._outputs = [output for output in self._outputs if output.request_id != request_id]

    def drop(self) -> None:
        """Let go of what is under way: its sequences have not moved."""
        steps, self._steps = self._steps, []
        for step in steps:
            step.drop()

    def _launch_behind(self, agreement: StepAgreement) -> bool:
        """Launch the agreed step before the one under way is read; False where that cannot be.

        A rank alone that fails to launch tries again once the step before is read: then the failure counts.
        """
        if not self._steps or not self._executor.can_launch_behind(agreement.max_num_tokens):
            return False
        before = self._steps[-1]
        plan = self._scheduler.schedule_ahead(
            before.plan, agreement.max_prefill_tokens, is_urgent=agreement.is_urgent
        )
        if plan is None:
            return False
        try:
            self._launch(plan, agreement, behind=before)
        except Exception:
            if not self._is_alone:
                raise
            logger.exception("launch_ahead_failed action=retry num_chunks=%d", len(plan.chunks))
            return False
        return True

    def _launch(self, plan: StepPlan, agreement: StepAgreement, behind: LaunchedStep | None = None) -> None:
        self.plan = plan
        self._steps.append(self._executor.launch(plan, agreement.max_num_tokens, behind=behind))
        self.plan = None

    def _read(self) -> None:
        """Wait for the oldest step and commit it."""
        step = self._steps.pop(0)
        self.plan = step.plan
        result = step.result()
        self._outputs += self._scheduler.commit(step.plan, result.draws, result.scores)
        self._committed.append(step.plan)
        self.plan = None
