"""Plan, launch, commit: a step at a time, the next one launched before the present one is read.

What a step draws stays on the device, where the step behind it finds it. So while a device computes step n,
the host plans and launches step n + 1, and then reads and commits n::

    host     plan n+1, launch │ wait n │ commit n, answer │ plan n+2, launch │ wait n+1 │ …
    device   … step n ────────────────▶│ step n+1 ───────────────────────────────────▶│ …

Nothing of the law changes: `commit` is the only place where a sequence advances. A plan made ahead stands on
what the step before will leave for certain; what of it turns out to be in vain is passed over. A step that
fails takes the one behind it along.
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

    Attributes:
        plan: Of the step that is under way, or of the last one where it failed.
    """

    def __init__(self, scheduler: Scheduler, executor: StepExecutor) -> None:
        self._scheduler = scheduler
        self._executor = executor
        self._ahead: LaunchedStep | None = None
        self.plan: StepPlan | None = None

    def demand(self) -> StepDemand:
        """What the next step is to do: that which was launched already, or else what would be planned."""
        self.plan = None
        return self._scheduler.demand() if self._ahead is None else self._ahead.plan.demand()

    def run(self, agreement: StepAgreement) -> list[TokenOutput]:
        """Compute and commit the agreed step; see `Engine.run`."""
        step, self._ahead = self._ahead, None
        if step is None:
            step = self._launch(agreement)
        else:
            self.plan = step.plan
        try:
            self._ahead = self._launch_behind(step)
            result = step.result()
            outputs = self._scheduler.commit(step.plan, result.draws, result.scores)
        except BaseException:
            self.drop()
            raise
        return outputs

    def take_plan(self) -> StepPlan | None:
        """Return the plan of the step that was run, and hold on to none of its sequences."""
        plan, self.plan = self.plan, None
        return plan

    def drop(self) -> None:
        """Let go of the step that was launched ahead: its sequences have not moved."""
        if self._ahead is not None:
            self._ahead.drop()
            self._ahead = None

    def _launch(self, agreement: StepAgreement) -> LaunchedStep:
        plan = self._scheduler.schedule(agreement.max_prefill_tokens, is_urgent=agreement.is_urgent)
        self.plan = plan
        return self._executor.launch(plan, agreement.max_num_tokens)

    def _launch_behind(self, step: LaunchedStep) -> LaunchedStep | None:
        """Launch the next step before `step` is read, where that can be.

        Where it fails, it is launched once more when it is its turn: then its failure counts.
        """
        if not step.can_be_followed:
            return None
        plan = self._scheduler.schedule_ahead(step.plan)
        if plan is None:
            return None
        try:
            return self._executor.launch(plan, plan.num_rows, behind=step)
        except Exception:
            logger.exception("launch_ahead_failed action=retry num_chunks=%d", len(plan.chunks))
            return None
