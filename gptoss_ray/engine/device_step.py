"""A step on a device, until its result is read: what the device has drawn, and what the host draws."""

from __future__ import annotations

import logging
from collections.abc import Sequence as ReadOnlySequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import accumulate

from torch import Tensor

from gptoss_ray.engine.device_stream import Mark
from gptoss_ray.engine.draft import Draft
from gptoss_ray.engine.mask_prefetch import MaskPrefetch, Masks
from gptoss_ray.engine.sampler import Draw, SampledToken, Sampler
from gptoss_ray.engine.sequence import Sequence
from gptoss_ray.engine.step_executor import StepResult
from gptoss_ray.engine.step_packing import DrawSources, num_host_draws
from gptoss_ray.engine.step_plan import ScheduledChunk, StepPlan
from gptoss_ray.errors import GptossError, GroupBrokenError, InternalError
from gptoss_ray.kernels.device_sampler import NO_TOKEN
from gptoss_ray.parallel.token_dispatcher import StepExchange

logger = logging.getLogger(__name__)


@dataclass(eq=False)
class DeviceStep:
    """See `LaunchedStep`.

    Attributes:
        plan: What is computed.
        sampler: Of the host.
        runs: Which rows of logits are whose.
        drawn: int64, a token for each row that draws, once the mark is reached.
        host_rows: Rows of logits that the host wants: draws of its own, then scored tokens.
        host_logits: Theirs [rows, vocab].
        sources: Which draw is whose.
        exchange: What its tokens have travelled through; None: the rank is alone.
        mark: Behind all of the step.
    """

    plan: StepPlan
    sampler: Sampler
    runs: list[DrawRun]
    drawn: Tensor
    host_rows: list[int]
    host_logits: Tensor
    sources: DrawSources
    exchange: StepExchange | None = None
    mark: Mark | None = None
    _masks: Masks = field(default_factory=dict)
    _until_read: ExitStack = field(default_factory=ExitStack)

    @property
    def can_be_followed(self) -> bool:
        """See `LaunchedStep`: no token is drawn on the host."""
        return not self.host_rows

    def begin_masks(self, masks: MaskPrefetch) -> None:
        """Work out what grammars allow while the device computes."""
        started = masks.of(self.plan.drawing_sequences(), self.plan.drafts)
        self._masks = self._until_read.enter_context(started)

    def result(self) -> StepResult:
        """See `LaunchedStep`; GroupBrokenError where another rank is lost or late."""
        with self._until_read:
            self._wait()
            by_host = [run for run in self.runs if run.num_on_host]
            num_rows = sum(run.num_on_host for run in by_host)
            sequences = [run.chunk.sequence for run in by_host]
            drafts = {run.chunk.sequence: run.host_draft for run in by_host}
            sampled = self.sampler.sample(self.host_logits[:num_rows], sequences, self._masks, drafts)
            scores = self.sampler.score(self.host_logits[num_rows:], self.plan.scored_chunks())
        token_ids, of_host = self.drawn.tolist(), dict(zip(sequences, sampled, strict=True))
        draws = [run.draw(of_host.get(run.chunk.sequence, ()), token_ids) for run in self.runs]
        return StepResult(draws, scores)

    def drop(self) -> None:
        """See `LaunchedStep`; the device is done with it afterwards, unless its group is broken."""
        with self._until_read:
            try:
                self._wait()
            except GroupBrokenError:
                logger.info("dropped_step_of_broken_group num_chunks=%d", len(self.plan.chunks))
            except Exception:
                logger.exception("dropped_step_failed")

    def _wait(self) -> None:
        assert self.mark is not None
        if self.exchange is not None:
            self.exchange.wait(self.mark.is_reached)
        self.mark.wait()


@dataclass(frozen=True, slots=True)
class DrawRun:
    """The rows of logits behind which one chunk draws: its own last token, and its draft's.

    Attributes:
        chunk: Whose.
        first: Row of logits.
        num_on_host: Rows that the host draws, from the first on.
    """

    chunk: ScheduledChunk
    first: int
    num_on_host: int

    @property
    def num_rows(self) -> int:
        """All of them."""
        return 1 + len(self.chunk.draft)

    @property
    def host_rows(self) -> range:
        """Those rows."""
        return range(self.first, self.first + self.num_on_host)

    @property
    def host_draft(self) -> Draft:
        """The part of the draft that the host checks."""
        return self.chunk.draft[: self.num_on_host - 1]

    def draw(self, by_host: Draw, token_ids: ReadOnlySequence[int]) -> Draw:
        """Return what was drawn, up to the first token that is not the draft's.

        Args:
            by_host: From the host's rows.
            token_ids: Of all rows, by the device.
        """
        if isinstance(by_host, GptossError):
            return by_host
        draft, drawn = self.chunk.draft, list(by_host)
        if not draft and not drawn and token_ids[self.first] != NO_TOKEN:
            return (SampledToken(token_ids[self.first]),)
        if len(drawn) < self.num_on_host:
            return tuple(drawn)
        while len(drawn) <= len(draft) and all(
            token.token_id == guess for token, guess in zip(drawn, draft, strict=False)
        ):
            token_id = token_ids[self.first + len(drawn)]
            if token_id == NO_TOKEN:
                break  # behind a draft it is drawn again in the next step
            drawn.append(SampledToken(token_id))
        return tuple(drawn) or _nothing_drawn(self.chunk.sequence)


def draw_runs(plan: StepPlan) -> list[DrawRun]:
    """Return the rows of a plan that draw, chunk by chunk."""
    drawing = [chunk for chunk in plan.chunks if chunk.draws_token]
    firsts = accumulate((1 + len(chunk.draft) for chunk in drawing), initial=0)
    pairs = zip(drawing, firsts, strict=False)
    return [DrawRun(chunk, first, num_host_draws(chunk)) for chunk, first in pairs]


def _nothing_drawn(sequence: Sequence) -> InternalError:
    logger.error("sampling_failed request_id=%s reason=no_finite_logit_is_largest", sequence.request_id)
    return InternalError(
        f"No token could be drawn for request {sequence.request_id}; the server's log says why."
    )
