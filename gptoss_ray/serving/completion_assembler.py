"""A completion's tokens as its text: the prompt where it is echoed, then the output up to a stop string."""

from __future__ import annotations

import codecs
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TypeAlias

from gptoss_ray.generation import FinishReason, GenerationRequest, TokenLogprobs, TokenOutput
from gptoss_ray.harmony.encoding import HarmonyEncoding
from gptoss_ray.serving.answer import LogprobEntry, TokenLogprob, logprob_entry
from gptoss_ray.serving.openai_types import CompletionRequest
from gptoss_ray.serving.text_gate import TextGate

_Piece: TypeAlias = tuple[str, list[LogprobEntry]]


@dataclass(slots=True)  # not frozen: one is made for each token, in a third of the time
class CompletionDelta:
    """What is new in one choice.

    Attributes:
        index: Of the choice; prompt p's choices are p * n to p * n + n - 1.
        text: To be appended; without the token that ended the choice. An echoed prompt comes first.
        token_ids: Output to be appended; with the token that ended the choice.
        logprobs: One entry for each token of the text so far, where they were asked for.
        finish_reason: "stop" or "length", in the last delta of a choice.
    """

    index: int
    text: str = ""
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[LogprobEntry, ...] = ()
    finish_reason: str | None = None


class CompletionAssembler:
    """Turns the tokens of one choice into text.

    Attributes:
        finish_reason: Why the choice ended, as its last delta says; None while it has not.
        num_reasoning_tokens: None: a completion has no channels.
        repairs: None: whatever comes is its text.
    """

    num_reasoning_tokens = 0
    repairs: Mapping[str, int] = MappingProxyType({})

    def __init__(
        self,
        index: int,
        encoding: HarmonyEncoding,
        request: CompletionRequest,
        generation: GenerationRequest,
    ) -> None:
        self.finish_reason: str | None = None
        self._index = index
        self._encoding = encoding
        self._stop_token_ids = frozenset(generation.params.stop_token_ids)
        self._gate: TextGate[LogprobEntry] = TextGate(
            request.stop, includes_stop=bool(request.include_stop_str_in_output)
        )
        self._tells_logprobs = request.logprobs is not None
        self._echo = generation.prompt_token_ids if request.echo else ()
        self._num_chars = 0
        self._sum_logprobs = 0.0
        self._num_logprobs = 0
        # Bytes of a character that tokens have cut wait here for its rest.
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    @property
    def mean_logprob(self) -> float:
        """Log probability of the output so far per token, the one that ended it included."""
        return self._sum_logprobs / max(1, self._num_logprobs)

    def replay(self, token_ids: Sequence[int]) -> int:
        """See `ReplayableAssembler.replay`."""
        if token_ids:
            list(self._echoed(TokenOutput("", 0)))
        for position, token_id in enumerate(token_ids):
            entries = [LogprobEntry(TokenLogprob(position, b"", None), ())] if self._tells_logprobs else []
            self._pass(self._encoding.token_bytes(token_id), entries)
        held = (entry.chosen.token_id for entry in self._gate.held_entries)
        return min((*held, len(token_ids)))

    def feed(self, output: TokenOutput) -> list[CompletionDelta]:
        """Return what the output's tokens add to the choice."""
        self._sum_logprobs += sum(entry.logprob for entry in output.logprobs)
        self._num_logprobs += len(output.logprobs)
        pieces = list(self._echoed(output))
        used: list[int] = []
        for token_id, logprobs in self._text_tokens(output):
            used.append(token_id)
            pieces.append(self._pass(self._encoding.token_bytes(token_id), logprobs))
            if self._gate.stopped:
                return [self._delta(pieces, used, "stop")]
        if output.finish_reason is None:
            return [self._delta(pieces, output.token_ids, None)]
        pieces.append(self._gate.feed(self._decoder.decode(b"", final=True)))
        pieces.append(self._gate.flush())
        return [self._delta(pieces, output.token_ids, output.finish_reason.value)]

    def _echoed(self, output: TokenOutput) -> Iterator[_Piece]:
        """Yield the prompt, once; no stop string is looked for in it."""
        prompt, self._echo = self._echo, ()
        for position, token_id in enumerate(prompt):
            entries = self._entries(token_id, output.prompt_logprobs[position : position + 1])
            text = self._decoder.decode(self._encoding.token_bytes(token_id))
            self._num_chars += len(text)
            yield text, entries

    def _entries(self, token_id: int, logprobs: Sequence[TokenLogprobs | None]) -> list[LogprobEntry]:
        """Return a token's entry; none where none was asked for."""
        if not self._tells_logprobs:
            return []
        return [logprob_entry(self._encoding, token_id, entry, self._num_chars) for entry in logprobs]

    def _text_tokens(self, output: TokenOutput) -> Iterator[tuple[int, list[LogprobEntry]]]:
        """Yield the tokens that are text, all but the one that ended the choice, with their logprobs."""
        for position, token_id in enumerate(output.token_ids):
            is_last = position == len(output.token_ids) - 1
            if is_last and output.finish_reason is FinishReason.STOP and token_id in self._stop_token_ids:
                return
            yield token_id, self._entries(token_id, output.logprobs[position : position + 1])

    def _pass(self, token: bytes, logprobs: list[LogprobEntry]) -> _Piece:
        text = self._decoder.decode(token)
        self._num_chars += len(text)
        return self._gate.feed(text, logprobs)

    def _delta(self, pieces: list[_Piece], token_ids: Sequence[int], reason: str | None) -> CompletionDelta:
        self.finish_reason = reason
        text = "".join(text for text, _ in pieces)
        logprobs = tuple(entry for _, entries in pieces for entry in entries)
        return CompletionDelta(self._index, text, tuple(token_ids), logprobs, reason)
