"""A choice's tokens as deltas of reasoning, content and tool calls."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from gptoss_ray.generation import FinishReason, TokenOutput
from gptoss_ray.harmony.encoding import HarmonyEncoding
from gptoss_ray.harmony.stream_parser import Delta, StreamParser
from gptoss_ray.serving.answer import LogprobEntry, TokenLogprob, logprob_entry
from gptoss_ray.serving.openai_types import ChatFields
from gptoss_ray.serving.text_gate import TextGate

Remember = Callable[[list[str], str], None]


@dataclass(frozen=True, slots=True)
class ToolCallDelta:
    """A piece of a tool call; the first one of a call carries its id and name."""

    index: int
    id: str = ""
    name: str = ""
    arguments: str = ""


@dataclass(slots=True)  # not frozen: one is made for each token, in a third of the time
class ChatDelta:
    """What is new in one choice: text to be appended, or a piece of a call, or why it ended.

    `finish_reason` is "stop", "length" or "tool_calls", in the last delta of a choice. `message_index` tells
    which of the model's messages a text belongs to, `is_remark` that it is said before a call. `token_ids`,
    of an answer that can be resumed, are all tokens since the delta before that has some.
    """

    index: int
    reasoning: str = ""
    content: str = ""
    tool_call: ToolCallDelta | None = None
    logprobs: tuple[LogprobEntry, ...] = ()
    finish_reason: str | None = None
    message_index: int = 0
    is_remark: bool = False
    token_ids: tuple[int, ...] = ()


class ChatAssembler:
    """Turns the tokens of one choice into deltas.

    Attributes:
        finish_reason: Why the choice ended, as its last delta says; None while it has not.
    """

    def __init__(
        self,
        index: int,
        encoding: HarmonyEncoding,
        request: ChatFields,
        remember: Remember,
        answer_id: str,
    ) -> None:
        """Start a choice; at its end `remember` is told the ids of its calls and what was thought before."""
        self.finish_reason: str | None = None
        self._index = index
        self._answer_id = answer_id
        self._tells_tokens = request.tells_tokens
        self._tells_logprobs = bool(request.logprobs)
        self._untold: list[int] = []
        self._encoding = encoding
        self._parser = StreamParser(encoding)
        self._gate: TextGate[LogprobEntry] = TextGate(
            request.stop, includes_stop=bool(request.include_stop_str_in_output)
        )
        self._tool_names = {tool.function.name for tool in request.tools or ()}
        self._ignores_end = bool(request.ignore_eos)
        self._remember = remember
        self._call_ids: list[str] = []
        self._reasoning: list[str] = []
        self._logprobs: list[LogprobEntry] = []
        self._message_index = 0  # of the content that the gate may hold back
        self._is_remark = False

    @property
    def num_reasoning_tokens(self) -> int:
        """Tokens of reasoning so far."""
        return self._parser.num_reasoning_tokens

    @property
    def repairs(self) -> Mapping[str, int]:
        """How often the output was not well-formed, by kind."""
        return self._parser.repairs

    def replay(self, token_ids: Sequence[int]) -> int:
        """See `ReplayableAssembler.replay`."""
        for position, token_id in enumerate(token_ids):
            if self._tells_logprobs:
                self._logprobs.append(LogprobEntry(TokenLogprob(position, b"", None), ()))
            self._deltas(self._parser.feed((token_id,)))
        if not self._tells_logprobs:
            return len(token_ids)
        held = (entry.chosen.token_id for entry in self._gate.held_entries)
        return min(self._parser.first_held_token, *held, len(token_ids))

    def feed(self, output: TokenOutput) -> list[ChatDelta]:
        """Return what the output's tokens add to the choice."""
        deltas = self._fed(output)
        if self._tells_tokens:
            self._untold += output.token_ids
            if deltas:
                deltas[-1].token_ids = tuple(self._untold)
                self._untold.clear()
        return deltas

    def _fed(self, output: TokenOutput) -> list[ChatDelta]:
        deltas: list[ChatDelta] = []
        for position, token_id in enumerate(output.token_ids):
            if output.logprobs:
                self._logprobs.append(logprob_entry(self._encoding, token_id, output.logprobs[position]))
            deltas += self._deltas(self._parser.feed((token_id,)))
            if self._gate.stopped:
                return [*deltas, self._end("stop")]
        if output.finish_reason is not None:
            deltas += self._deltas(self._parser.finish())
            if self._gate.stopped:
                return [*deltas, self._end("stop")]
            text, logprobs = self._gate.flush()
            deltas += self._content(text, logprobs)
        is_over = self._parser.is_done and not self._ignores_end
        if output.finish_reason is FinishReason.LENGTH and not is_over:
            deltas.append(self._end("length"))
        elif output.finish_reason is not None or is_over:
            deltas.append(self._end("tool_calls" if self._call_ids else "stop"))
        return deltas

    def _end(self, reason: str) -> ChatDelta:
        self.finish_reason = reason
        self._remember(self._call_ids, "".join(self._reasoning))
        return ChatDelta(self._index, finish_reason=reason)

    def _deltas(self, pieces: list[Delta]) -> list[ChatDelta]:
        """Return what pieces of harmony messages are to a client; nothing behind a stop string."""
        deltas: list[ChatDelta] = []
        for piece in pieces:
            if self._gate.stopped:
                break
            if (name := self._function_name(piece)) is not None:
                deltas += self._tool_call(piece, name)
            elif piece.channel == "analysis" or piece.recipient is not None:
                if piece.text:
                    self._reasoning.append(piece.text)
                    deltas.append(
                        ChatDelta(self._index, reasoning=piece.text, message_index=piece.message_index)
                    )
            else:
                self._message_index = piece.message_index
                self._is_remark = piece.channel == "commentary"
                tokens = slice(piece.first_token, piece.first_token + piece.num_tokens)
                deltas += self._content(*self._gate.feed(piece.text, self._logprobs[tokens]))
                if piece.ends_message:
                    deltas += self._content(*self._gate.flush())
        return deltas

    def _function_name(self, piece: Delta) -> str | None:
        """Return the function called; models now and then leave out `functions.` before an offered one."""
        if piece.recipient is None:
            return None
        return piece.recipient if piece.recipient in self._tool_names else piece.function_name

    def _tool_call(self, piece: Delta, name: str) -> Iterator[ChatDelta]:
        if piece.starts_message:
            self._call_ids.append(self._new_call_id())
            call = ToolCallDelta(len(self._call_ids) - 1, id=self._call_ids[-1], name=name)
            yield ChatDelta(self._index, tool_call=call)
        if piece.text:
            arguments = ToolCallDelta(len(self._call_ids) - 1, arguments=piece.text)
            yield ChatDelta(self._index, tool_call=arguments)

    def _new_call_id(self) -> str:
        """Return an id that is the same where the answer is resumed, and as random as the answer's own."""
        call = f"{self._answer_id}/{self._index}/{len(self._call_ids)}"
        return f"call_{hashlib.sha256(call.encode()).hexdigest()[:32]}"

    def _content(self, text: str, logprobs: list[LogprobEntry]) -> list[ChatDelta]:
        if not (text or logprobs):
            return []
        return [
            ChatDelta(
                self._index,
                content=text,
                logprobs=tuple(logprobs),
                message_index=self._message_index,
                is_remark=self._is_remark,
            )
        ]
