"""What a request asks to change in the model's logits before a token is drawn.

Order: what the grammar forbids (nothing later brings it back), penalties on the model's own logits, then
the bias (so that ±100 stays absolute), then the stop tokens that may not come yet.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Set

import numpy as np
import numpy.typing as npt

from gptoss_ray.engine.draft import Draft
from gptoss_ray.engine.sequence import Sequence
from gptoss_ray.engine.token_constraint import Mask
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


def adjust_logits(logits: Logits, sequence: Sequence, drafted: Draft, mask: Mask | None) -> None:
    """Apply grammar, penalties, bias and the minimum length to logits [vocab] in place.

    Args:
        logits: Of the token behind the sequence and a draft.
        sequence: Whose token it is.
        drafted: The draft, taken for output here.
        mask: What the sequence's grammar allows there; None: it has none.
    """
    params = sequence.request.params
    if mask is not None:
        np.copyto(logits, -np.inf, where=~mask)
    counts = sequence.output_counts + Counter(drafted) if drafted else sequence.output_counts
    _penalize_repetition(logits, sequence.prompt_token_set | counts.keys(), params.repetition_penalty)
    _penalize_output(logits, counts, params)
    for token_id, bias in params.logit_bias:
        logits[token_id] += bias
    if sequence.num_output_tokens + len(drafted) < params.min_tokens:
        _forbid_stopping(logits, sequence)


def _forbid_stopping(logits: Logits, sequence: Sequence) -> None:
    """Rule stop tokens out, unless the output is complete by its grammar and can only stop."""
    stop_token_ids = list(sequence.request.params.stop_token_ids)
    stopping = logits[stop_token_ids]
    logits[stop_token_ids] = -np.inf
    if sequence.constraint is not None and logits.max() == -np.inf:
        logits[stop_token_ids] = stopping


def _penalize_repetition(logits: Logits, token_ids: Set[int], penalty: float) -> None:
    """Keskar et al. 2019 (CTRL), as transformers and vLLM have it: over prompt and output."""
    if penalty == 1.0:
        return
    seen = np.fromiter(token_ids, dtype=np.int64)
    values = logits[seen]
    logits[seen] = np.where(values > 0, values / penalty, values * penalty)


def _penalize_output(logits: Logits, counts: Mapping[int, int], params: SamplingParams) -> None:
    """OpenAI's definition: presence + count x frequency off the logit of each output token."""
    if params.presence_penalty == 0.0 and params.frequency_penalty == 0.0:
        return
    token_ids = np.fromiter(counts.keys(), dtype=np.int64, count=len(counts))
    num_times = np.fromiter(counts.values(), dtype=np.float32, count=len(counts))
    logits[token_ids] -= params.presence_penalty + params.frequency_penalty * num_times
