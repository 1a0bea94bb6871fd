"""What a request asks to change in the model's logits before a token is drawn.

Order: what the grammar forbids (nothing later brings it back), penalties on the model's own logits, then
the bias (so that ±100 stays absolute), then the stop tokens that may not come yet.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from gptoss_ray.engine.mask_prefetch import Masks
from gptoss_ray.engine.sequence import Sequence
from gptoss_ray.generation import SamplingParams

Logits = npt.NDArray[np.float32]


def needs_adjustment(sequence: Sequence, num_output_tokens: int) -> bool:
    """Whether `adjust_logits` would change anything for the token behind so many of the sequence's output."""
    params = sequence.request.params
    return (
        sequence.constraint is not None
        or params.repetition_penalty != 1.0
        or params.presence_penalty != 0.0
        or params.frequency_penalty != 0.0
        or bool(params.logit_bias)
        or num_output_tokens < params.min_tokens
    )


def adjust_logits(logits: Logits, sequence: Sequence, masks: Masks) -> None:
    """Apply grammar, penalties, bias and the minimum length to logits [vocab] in place.

    Args:
        logits: Of the sequence's next token.
        sequence: Whose grammar's mask is waited for.
        masks: Of the step.

    Raises:
        InvalidRequestError: The grammar has no next token.
    """
    params = sequence.request.params
    if sequence.constraint is not None:
        np.copyto(logits, -np.inf, where=~masks[sequence].result())
    _penalize_repetition(logits, sequence, params.repetition_penalty)
    _penalize_output(logits, sequence, params)
    for token_id, bias in params.logit_bias:
        logits[token_id] += bias
    if sequence.num_output_tokens < params.min_tokens:
        _forbid_stopping(logits, sequence)


def _forbid_stopping(logits: Logits, sequence: Sequence) -> None:
    """Rule stop tokens out, unless the output is complete by its grammar and can only stop."""
    stop_token_ids = list(sequence.request.params.stop_token_ids)
    stopping = logits[stop_token_ids]
    logits[stop_token_ids] = -np.inf
    if sequence.constraint is not None and logits.max() == -np.inf:
        logits[stop_token_ids] = stopping


def _penalize_repetition(logits: Logits, sequence: Sequence, penalty: float) -> None:
    """Keskar et al. 2019 (CTRL), as transformers and vLLM have it: over prompt and output."""
    if penalty == 1.0:
        return
    seen = np.fromiter(sequence.prompt_token_set | sequence.output_counts.keys(), dtype=np.int64)
    values = logits[seen]
    logits[seen] = np.where(values > 0, values / penalty, values * penalty)


def _penalize_output(logits: Logits, sequence: Sequence, params: SamplingParams) -> None:
    """OpenAI's definition: presence + count x frequency off the logit of each output token."""
    if params.presence_penalty == 0.0 and params.frequency_penalty == 0.0:
        return
    counts = sequence.output_counts
    token_ids = np.fromiter(counts.keys(), dtype=np.int64, count=len(counts))
    num_times = np.fromiter(counts.values(), dtype=np.float32, count=len(counts))
    logits[token_ids] -= params.presence_penalty + params.frequency_penalty * num_times
