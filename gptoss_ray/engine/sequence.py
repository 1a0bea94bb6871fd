"""A request inside an engine: its tokens, how far they are computed, and where its KV lies."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from functools import cached_property

from gptoss_ray.engine.token_constraint import TokenConstraint
from gptoss_ray.errors import GptossError
from gptoss_ray.generation import FinishReason, GenerationRequest, TokenLogprobs, TokenOutput
from gptoss_ray.kvcache.block_table import BlockTable
from gptoss_ray.kvcache.prefix_cache import BlockHashes


class Sequence:
    """Prompt and output tokens of one request, and the part of them whose KV is computed.

    Tokens that were emitted before (a resumed request) are output like any other: limits,
    penalties and positions count from the original prompt, so nothing can tell them apart.

    Attributes:
        token_ids: Prompt, then output.
        num_computed_tokens: Leading tokens whose KV is in `blocks`.
        output_counts: How often each token stands in the output.
        num_cached_tokens: Prompt tokens found in the prefix cache at first admission, None before.
        num_scored_tokens: Leading prompt tokens whose successor's log probability is known; it counts none
            where nobody asked, and what was scored once stays so through a preemption.
        constraint: Which tokens may come next, as far as the output goes; None: any.
        num_open_tokens: Tokens behind the computed ones that a launched step computes; above 0 only while
            the step behind it is planned (`Scheduler.schedule_ahead`).
        num_open_draws: Tokens that the launched step draws: 0 or 1, and nobody knows it yet.
    """

    def __init__(
        self,
        request: GenerationRequest,
        blocks: BlockTable,
        max_context: int,
        constraint: TokenConstraint | None = None,
    ) -> None:
        self.request = request
        self.constraint = constraint
        self.blocks = blocks
        self.block_hashes = BlockHashes(request.cache_salt, block_size=blocks.block_size)
        self.token_ids = [*request.prompt_token_ids, *request.emitted_token_ids]
        self.num_prompt_tokens = len(request.prompt_token_ids)
        self.num_computed_tokens = 0
        self.num_cached_tokens: int | None = None
        self.output_counts = Counter(request.emitted_token_ids)
        self.num_scored_tokens = 0
        self.num_open_tokens = 0
        self.num_open_draws = 0
        self._prompt_logprobs: list[TokenLogprobs] = []
        # A resumed request has delivered them with its first token.
        is_scored = request.params.prompt_logprobs is not None and not request.emitted_token_ids
        self._num_tokens_to_score = self.num_prompt_tokens - 1 if is_scored else 0
        self._max_output_tokens = min(request.params.max_tokens, max_context - self.num_prompt_tokens)

    @property
    def request_id(self) -> str:
        """Of the `GenerationRequest`."""
        return self.request.request_id

    @property
    def num_tokens(self) -> int:
        """Prompt and output tokens."""
        return len(self.token_ids)

    @property
    def num_output_tokens(self) -> int:
        """Output tokens, those emitted before a resumption included."""
        return len(self.token_ids) - self.num_prompt_tokens

    @property
    def next_start(self) -> int:
        """Position of the first token that no step computes yet."""
        return self.num_computed_tokens + self.num_open_tokens

    @property
    def num_uncomputed_tokens(self) -> int:
        """Tokens to compute until the next one can be drawn; 1 while decoding."""
        return len(self.token_ids) + self.num_open_draws - self.next_start

    @property
    def ends_with_open_step(self) -> bool:
        """Whether the launched step makes the last token, whichever that is; a stop token may, too."""
        is_complete = self.num_output_tokens + self.num_open_draws >= self._max_output_tokens
        return is_complete if self.num_open_draws else self.num_uncomputed_tokens == 0

    @property
    def draws(self) -> bool:
        """Whether tokens are drawn behind the prompt; some requests only score it."""
        return self._max_output_tokens > 0

    @property
    def num_tokens_left(self) -> int:
        """Tokens that may still be drawn."""
        return self._max_output_tokens - self.num_output_tokens

    @property
    def is_decoding(self) -> bool:
        """Whether one token is left to compute until the next can be drawn."""
        return self.num_uncomputed_tokens == 1

    @cached_property
    def prompt_token_set(self) -> frozenset[int]:
        """The distinct tokens of the prompt."""
        return frozenset(self.request.prompt_token_ids)

    @property
    def unscored(self) -> range:
        """Positions whose logits are wanted for the log probability of the prompt's next token."""
        return range(self.num_scored_tokens, self._num_tokens_to_score)

    def add_prompt_logprobs(self, logprobs: Iterable[TokenLogprobs]) -> None:
        """Take those that follow the scored tokens."""
        num_before = len(self._prompt_logprobs)
        self._prompt_logprobs += logprobs
        self.num_scored_tokens += len(self._prompt_logprobs) - num_before

    def append(self, token_id: int) -> None:
        """Add a drawn token to the output."""
        self.token_ids.append(token_id)
        self.output_counts[token_id] += 1
        if self.constraint is not None:
            self.constraint.advance(token_id)

    def finish_reason(self) -> FinishReason | None:
        """Why the output is complete as it stands, None when it is not."""
        if self.num_output_tokens and self.token_ids[-1] in self.request.params.stop_token_ids:
            return FinishReason.STOP
        if self.num_output_tokens >= self._max_output_tokens and not self.unscored:
            return FinishReason.LENGTH
        return None

    def output(
        self,
        position: int,
        token_ids: tuple[int, ...] = (),
        logprobs: tuple[TokenLogprobs, ...] = (),
        *,
        finish_reason: FinishReason | None = None,
        error: GptossError | None = None,
    ) -> TokenOutput:
        """What a step made for this sequence, as its client sees it."""
        prompt_logprobs: tuple[TokenLogprobs | None, ...] = ()
        is_first = position == 0 and error is None
        if is_first and self.request.params.prompt_logprobs is not None:
            prompt_logprobs = (None, *self._prompt_logprobs)
            self._prompt_logprobs.clear()
        return TokenOutput(
            request_id=self.request_id,
            position=position,
            token_ids=token_ids,
            logprobs=logprobs,
            prompt_logprobs=prompt_logprobs,
            num_cached_tokens=self.num_cached_tokens or 0,
            finish_reason=finish_reason,
            error=error,
        )
