"""Logits in, drawn tokens out. A row that fails fails alone (law 7).

A sequence with a draft has a row more for each of its tokens. Rows are drawn in order, each as though the
draft before it were output, for as long as what is drawn is what the draft says.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from collections.abc import Sequence as ReadOnlySequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
import torch

from gptoss_ray.engine.draft import NO_DRAFTS, Draft
from gptoss_ray.engine.draw import Floats, draw_token, keyed_uniform, log_normalizer, most_likely
from gptoss_ray.engine.logit_adjustments import adjust_logits, needs_adjustment
from gptoss_ray.engine.mask_prefetch import Masks
from gptoss_ray.engine.sequence import Sequence
from gptoss_ray.engine.step_plan import ScheduledChunk
from gptoss_ray.engine.token_constraint import Mask
from gptoss_ray.errors import GptossError, InternalError, InvalidRequestError
from gptoss_ray.generation import TokenLogprobs

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class SampledToken:
    """A drawn token and, where they were asked for, its log probabilities (one entry)."""

    token_id: int
    logprobs: tuple[TokenLogprobs, ...] = ()


Draw = tuple[SampledToken, ...] | GptossError
"""Of a sequence in a step: the tokens of its draft that were drawn, too, and one more behind them."""
Scores = tuple[TokenLogprobs, ...] | GptossError
"""Log probabilities of the prompt tokens behind a chunk's scored positions."""


class Sampler:
    """Draws the next tokens of each sequence, row by row.

    Args:
        vocab_size: Columns of the logits.
        suppressed_token_ids: Ids that are no part of the vocabulary (reserved ones): never drawn,
            and not in the distribution whose log probabilities are reported.
    """

    def __init__(self, vocab_size: int, suppressed_token_ids: ReadOnlySequence[int] = ()) -> None:
        self._suppressed = np.array(suppressed_token_ids, dtype=np.int64)
        # Rows are worked on here and not in place: the alignment of a row depends on the batch.
        self._adjusted: Floats = torch.empty(vocab_size).numpy()
        self._scratch: Floats = torch.empty(vocab_size).numpy()

    def sample(
        self,
        logits: torch.Tensor,
        sequences: ReadOnlySequence[Sequence],
        masks: Masks,
        drafts: Mapping[Sequence, Draft] = NO_DRAFTS,
    ) -> list[Draw]:
        """Draw for each sequence; only those with a mask wait for one, and they come last.

        Args:
            logits: [L, vocab] float32, which may be overwritten; a row for each sequence, and behind it one
                for each token of its draft.
            sequences: In the order of the rows.
            masks: What the grammars of those that have one allow.
            drafts: Of those that have one.
        """
        rows: Floats = logits.numpy(force=True)
        rows[:, self._suppressed] = -np.inf
        drafted = [drafts.get(sequence, ()) for sequence in sequences]
        ends = list(accumulate(1 + len(draft) for draft in drafted))
        assert len(rows) == (ends[-1] if ends else 0), f"{len(rows)} rows of logits for {ends} draws"
        runs = [rows[end - 1 - len(draft) : end] for end, draft in zip(ends, drafted, strict=True)]
        mates_first = sorted(zip(runs, sequences, drafted, strict=True), key=lambda each: each[1] in masks)
        with np.errstate(all="ignore"):  # whatever is not finite is found and refused per row
            draws = {each[1]: self._draw(*each, masks) for each in mates_first}
        return [draws[sequence] for sequence in sequences]

    def score(self, logits: torch.Tensor, chunks: ReadOnlySequence[ScheduledChunk]) -> list[Scores]:
        """Look up the prompt tokens behind the chunks' scored positions, one row of logits each, in order."""
        rows: Floats = logits.numpy(force=True)
        rows[:, self._suppressed] = -np.inf
        ends = np.cumsum([len(chunk.scored) for chunk in chunks])
        with np.errstate(all="ignore"):
            return [
                self._score(rows[end - len(chunk.scored) : end], chunk)
                for end, chunk in zip(ends, chunks, strict=True)
            ]

    def _score(self, rows: Floats, chunk: ScheduledChunk) -> Scores:
        """The exception boundary of one request."""
        sequence = chunk.sequence
        try:
            return tuple(
                self._look_up(row, sequence.token_ids[position + 1], sequence.request.params.prompt_logprobs)
                for row, position in zip(rows, chunk.scored, strict=True)
            )
        except Exception:
            logger.exception("scoring_failed request_id=%s", sequence.request_id)
            return InternalError(
                f"The prompt of request {sequence.request_id} could not be scored; the server's log says why."
            )

    def _draw(self, rows: Floats, sequence: Sequence, draft: Draft, masks: Masks) -> Draw:
        """The exception boundary of one request; what fails behind a draft is drawn again in a step."""
        drawn: list[SampledToken] = []
        try:
            allowed: ReadOnlySequence[Mask | None] = [None] * len(rows)
            if sequence in masks:
                allowed = masks[sequence].result()
            for place, (row, mask) in enumerate(zip(rows, allowed, strict=False)):
                token_id = self._choose(row, sequence, draft[:place], mask)
                logprobs = self._logprobs(row, token_id, sequence.request.params.logprobs)
                drawn.append(SampledToken(token_id, logprobs))
                if draft[place : place + 1] != (token_id,):
                    break
            return tuple(drawn)
        except InvalidRequestError as error:
            return error
        except Exception:
            if drawn:
                return tuple(drawn)
            logger.exception("sampling_failed request_id=%s", sequence.request_id)
            return InternalError(
                f"No token could be drawn for request {sequence.request_id}; the server's log says why."
            )

    def _choose(self, row: Floats, sequence: Sequence, drafted: Draft, mask: Mask | None) -> int:
        position = sequence.num_output_tokens + len(drafted)
        if needs_adjustment(sequence, position):
            np.copyto(self._adjusted, row)
            adjust_logits(self._adjusted, sequence, drafted, mask)
            row = self._adjusted
        best = int(row.argmax())  # the lowest id among equals; a NaN if there is any
        if not np.isfinite(row[best]):
            raise ValueError(f"the largest logit is {row[best]}, at token {best}")
        params = sequence.request.params
        if params.temperature == 0.0:
            return best
        uniform = keyed_uniform(params.seed, params.choice_index, position)
        return draw_token(row, params, uniform, self._scratch)

    def _logprobs(self, row: Floats, token_id: int, num_top: int | None) -> tuple[TokenLogprobs, ...]:
        """Log probabilities under the model's own distribution, before any adjustment."""
        return () if num_top is None else (self._look_up(row, token_id, num_top),)

    def _look_up(self, row: Floats, token_id: int, num_top: int | None) -> TokenLogprobs:
        normalizer = log_normalizer(row, self._scratch)
        if not np.isfinite(normalizer):
            raise ValueError(f"the logits' normalizer is {normalizer}")
        top = most_likely(row, num_top) if num_top else ()
        return TokenLogprobs(
            logprob=float(row[token_id]) - normalizer,
            top=tuple((int(top_id), float(row[top_id]) - normalizer) for top_id in top),
        )
