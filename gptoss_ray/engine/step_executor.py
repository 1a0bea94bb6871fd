"""Who computes planned steps: the seam between the scheduler's decisions and a device."""

from __future__ import annotations

from collections.abc import Sequence as ReadOnlySequence
from dataclasses import dataclass
from typing import Protocol

from gptoss_ray.engine.mask_prefetch import MaskPrefetch
from gptoss_ray.engine.model_runner import ModelRunner
from gptoss_ray.engine.sampler import Draw, Sampler, Scores
from gptoss_ray.engine.step_plan import StepPlan
from gptoss_ray.model.transformer import Transformer


@dataclass(frozen=True, slots=True)
class StepResult:
    """What a step makes of its plan.

    Attributes:
        draws: One for each of `StepPlan.drawing_sequences`.
        scores: One for each of `StepPlan.scored_chunks`.
    """

    draws: list[Draw]
    scores: ReadOnlySequence[Scores] = ()


@dataclass(frozen=True, slots=True)
class StepLimits:
    """What an executor must have room for.

    Attributes:
        max_num_sequences: Sequences of a step.
        max_num_tokens: Tokens of a step.
        max_context: Tokens of a sequence.
        max_drafted_tokens: Tokens of drafts in a step.
    """

    max_num_sequences: int
    max_num_tokens: int
    max_context: int
    max_drafted_tokens: int = 0


class LaunchedStep(Protocol):
    """A step that is computed, or is being computed while the host does something else."""

    @property
    def plan(self) -> StepPlan:
        """What is computed."""
        ...

    @property
    def can_be_followed(self) -> bool:
        """Whether a step may be launched behind it before its result is known: its draws stay there."""
        ...

    def result(self) -> StepResult:
        """Wait for the step, once; raises what made it fail."""
        ...

    def drop(self) -> None:
        """Let go of a step whose result nobody wants."""
        ...


class StepExecutor(Protocol):
    """Computes steps in the order of their launch.

    Attributes:
        transformer: The network; may be replaced between two launches by one with the same shape.
    """

    transformer: Transformer

    def launch(
        self, plan: StepPlan, max_num_tokens: int, *, behind: LaunchedStep | None = None
    ) -> LaunchedStep:
        """Begin to compute a plan.

        Args:
            plan: Of this rank.
            max_num_tokens: At least the tokens of any rank's plan for this step.
            behind: The step launched before, where its result was not read yet: it draws tokens that this
                one begins with.
        """
        ...

    def can_launch_behind(self, max_num_tokens: int) -> bool:
        """Whether a step may be launched before the one under way is read, without waiting for it.

        Args:
            max_num_tokens: See `launch`.
        """
        ...

    def close(self) -> None:
        """End what was started; nothing is launched afterwards."""
        ...


@dataclass(frozen=True, slots=True)
class FinishedStep:
    """A step that was computed when it was launched."""

    plan: StepPlan
    done: StepResult
    can_be_followed: bool = False

    def result(self) -> StepResult:
        """See `LaunchedStep`."""
        return self.done

    def drop(self) -> None:
        """See `LaunchedStep`."""


class EagerExecutor:
    """Computes a step when it is launched, and draws on the host.

    Attributes:
        runner: Network and KV cache.
        sampler: Draws.
        masks: Works grammars out meanwhile.
    """

    def __init__(self, runner: ModelRunner, sampler: Sampler, masks: MaskPrefetch) -> None:
        self.runner = runner
        self.sampler = sampler
        self.masks = masks

    @property
    def transformer(self) -> Transformer:
        """See `StepExecutor`."""
        return self.runner.transformer

    @transformer.setter
    def transformer(self, transformer: Transformer) -> None:
        self.runner.transformer = transformer

    def launch(
        self, plan: StepPlan, max_num_tokens: int, *, behind: LaunchedStep | None = None
    ) -> FinishedStep:
        """See `StepExecutor`; nothing can be behind a step that was not read."""
        assert behind is None
        drawing, drafts = plan.drawing_sequences(), plan.drafts
        with self.masks.of(drawing, drafts) as masks:
            logits = self.runner.run(plan, max_num_tokens)
            draws = self.sampler.sample(logits[: plan.num_draws], drawing, masks, drafts)
        scores = self.sampler.score(logits[plan.num_draws :], plan.scored_chunks())
        return FinishedStep(plan, StepResult(draws, scores))

    def can_launch_behind(self, max_num_tokens: int) -> bool:
        """See `StepExecutor`; a step was computed when it is launched."""
        del max_num_tokens
        return False

    def close(self) -> None:
        """See `StepExecutor`."""
        self.masks.close()
