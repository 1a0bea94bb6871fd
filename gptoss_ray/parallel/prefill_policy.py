"""When the ranks of a group compute prompts, and how much of them in one step.

A step takes as long as its slowest rank, so one rank's prompt delays every rank's decoding. Prompts of
several ranks in one step cost the group hardly more than one, hence they are gathered for a few steps;
large ones are cut, and decoding goes on alone in between. Where nobody decodes, nothing is held back.
"""

from __future__ import annotations

from gptoss_ray.config import ParallelConfig


class PrefillPolicy:
    """Deterministic: equal calls give equal answers, so ranks that make them need not talk.

    While any rank decodes, the first chunk of a prompt waits at most
    max(max_prefill_delay_steps, min_decode_steps) steps. Its further chunks, and prompts that come while
    it is being computed, wait no more than min_decode_steps.

    Args:
        config: `max_prefill_delay_steps`, `max_prefill_tokens_per_step`, `min_decode_steps`.
    """

    def __init__(self, config: ParallelConfig) -> None:
        self._max_delay_steps = config.max_prefill_delay_steps
        self._max_tokens = config.max_prefill_tokens_per_step
        self._min_decode_steps = config.min_decode_steps
        self._num_steps_waited = 0
        self._num_decode_steps_owed = 0

    def advance(self, max_decode_tokens: int, max_prefill_tokens: int, *, all_want: bool) -> int:
        """Return how many prompt tokens a rank may compute in this step.

        Args:
            max_decode_tokens: Largest number of decoding rows of any rank.
            max_prefill_tokens: Largest number of prompt tokens that any rank wants to compute.
            all_want: Every rank wants to compute some; there is nobody left to wait for.
        """
        decodes = max_decode_tokens > 0
        if not max_prefill_tokens:
            self._num_steps_waited = 0
            self._num_decode_steps_owed = max(0, self._num_decode_steps_owed - 1) if decodes else 0
            return 0
        if decodes and self._holds_back(all_want):
            self._num_steps_waited += 1
            self._num_decode_steps_owed = max(0, self._num_decode_steps_owed - 1)
            return 0
        # What has been computed once is not held again for others: they can join at any chunk.
        self._num_steps_waited = self._max_delay_steps
        self._num_decode_steps_owed = self._min_decode_steps
        return min(max_prefill_tokens, self._max_tokens) if decodes else max_prefill_tokens

    def _holds_back(self, all_want: bool) -> bool:
        if self._num_decode_steps_owed > 0:
            return True
        return not all_want and self._num_steps_waited < self._max_delay_steps
