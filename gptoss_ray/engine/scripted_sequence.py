"""A request whose tokens are given beforehand, answered as an engine would answer it."""

from __future__ import annotations

from collections.abc import Sequence

from gptoss_ray.generation import FinishReason, GenerationRequest, TokenLogprobs, TokenOutput


def scripted_logprobs(token_id: int, num_top: int) -> TokenLogprobs:
    """Return logprobs that a test can foretell: the token first, then id 0 upwards."""
    others = (other for other in range(num_top + 1) if other != token_id)
    top = [(token_id, -0.25), *((other, -1.0 - other) for other in others)]
    return TokenLogprobs(-0.25, tuple(top[:num_top]))


class ScriptedSequence:
    """Turns given tokens into outputs: up to a stop token or the limit, with log probabilities if wanted.

    Args:
        request: Its emitted tokens count as delivered.
        num_cached_tokens: What the first output tells of the prefix cache.
    """

    def __init__(self, request: GenerationRequest, *, num_cached_tokens: int = 0) -> None:
        self._request = request
        self._num_cached_tokens = num_cached_tokens
        self._position = len(request.emitted_token_ids)

    def take(self, token_ids: Sequence[int]) -> TokenOutput:
        """Return the output of a step that drew these tokens, those behind its end left out."""
        params = self._request.params
        room = params.max_tokens - self._position
        taken = list(token_ids[:room])
        stops = [index for index, token_id in enumerate(taken) if token_id in params.stop_token_ids]
        if stops:
            taken = taken[: stops[0] + 1]
        reason = FinishReason.STOP if stops else FinishReason.LENGTH if len(taken) == room else None
        return self._output(tuple(taken), reason)

    def end(self, reason: FinishReason = FinishReason.LENGTH) -> TokenOutput:
        """Return the output of a script that has no more tokens."""
        return self._output((), reason)

    def _output(self, token_ids: tuple[int, ...], reason: FinishReason | None) -> TokenOutput:
        position, self._position = self._position, self._position + len(token_ids)
        num_top = self._request.params.logprobs
        return TokenOutput(
            self._request.request_id,
            position,
            token_ids,
            () if num_top is None else tuple(scripted_logprobs(token_id, num_top) for token_id in token_ids),
            prompt_logprobs=self._prompt_logprobs() if position == 0 and (token_ids or reason) else (),
            num_cached_tokens=self._num_cached_tokens if position == 0 else 0,
            finish_reason=reason,
        )

    def _prompt_logprobs(self) -> tuple[TokenLogprobs | None, ...]:
        num_top = self._request.params.prompt_logprobs
        if num_top is None:
            return ()
        return None, *(
            scripted_logprobs(token_id, num_top) for token_id in self._request.prompt_token_ids[1:]
        )
