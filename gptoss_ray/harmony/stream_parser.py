"""The model's tokens as deltas of text, each on its channel: what it reasons, says and calls.

The parser never raises on what a model emits and never shows markup. It repairs, and counts in `repairs`:

===============  =============================================  ============================================
kind             in the output                                  becomes
===============  =============================================  ============================================
no_header        text without a header                          a final message
no_start         a header without `<|start|>`                   a header
no_message       a header without `<|message|>`                 its unknown text is the content
header_words     words, or parts doubled or misplaced, in it    the parts understood; the last of equals wins
unknown_channel  no or an unknown channel                       final
no_end           `<|start|>` or `<|channel|>` inside a message  the end of that message, the start of the next
stray_token      other control, reserved or unknown ids         nothing
foreign_speaker  a message of another speaker, `<|start|>user`  the end of the output
behind_end       anything behind a stop token                   nothing
bad_utf8         bytes that are no UTF-8 (but for a cut end)    U+FFFD
===============  =============================================  ============================================
"""

from __future__ import annotations

import codecs
from collections import Counter
from collections.abc import Sequence
from enum import Enum, auto
from typing import Literal, NamedTuple

from gptoss_ray.harmony.encoding import HarmonyEncoding
from gptoss_ray.harmony.message_header import (
    CHANNEL_MARK,
    CONSTRAIN_MARK,
    Channel,
    MessageHeader,
    may_be_header,
)

MAX_NUM_HEADER_TOKENS = 96
"""A header with a function's name of 64 characters fits; a longer one lacks its `<|message|>`."""

_FUNCTIONS = "functions."

# What stands for bytes that are no UTF-8 until they are counted; text decoded from UTF-8 never holds it.
_BAD_BYTES = "\udcff"
_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
_ERRORS = "gptoss_ray.count_bad_bytes"


def _mark_bad_bytes(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeDecodeError)
    return _BAD_BYTES, error.end


codecs.register_error(_ERRORS, _mark_bad_bytes)


class Delta(NamedTuple):
    """A piece of one message.

    Attributes:
        message_index: Which message of the output, from 0.
        channel: "analysis", "commentary" or "final".
        recipient: Whom the message calls, such as "functions.f"; None if it is for the user.
        text: New text, possibly none.
        starts_message: Whether this is the message's first delta (its text is empty).
        ends_message: Whether the message is complete (its text may hold a last U+FFFD).
        first_token: Index in the output of the first of the tokens that made the text.
        num_tokens: How many tokens from there on made it; 0 where there is no text.
    """

    message_index: int
    channel: Channel
    recipient: str | None
    text: str = ""
    starts_message: bool = False
    ends_message: bool = False
    first_token: int = 0
    num_tokens: int = 0

    @property
    def function_name(self) -> str | None:
        """Name of the function that the message calls, None if it calls none."""
        recipient = self.recipient
        return recipient[len(_FUNCTIONS) :] if recipient and recipient.startswith(_FUNCTIONS) else None


class _State(Enum):
    HEADER = auto()  # behind `<|start|>assistant`, `<|start|>` or `<|end|>`
    CONTENT = auto()  # behind `<|message|>`
    DONE = auto()


class StreamParser:
    """Reads one generation from right behind its prompt's `<|start|>assistant`.

    Feeding tokens one by one or all at once gives the same text. Linear in the number of tokens.

    Attributes:
        is_done: Whether the output has ended; what is fed from now on is not looked at.
        repairs: How often the output was not well-formed, by kind.
        num_reasoning_tokens: Tokens of analysis text so far.
        num_tool_calls: Function calls whose arguments are complete.
    """

    def __init__(self, encoding: HarmonyEncoding) -> None:
        self.repairs: Counter[str] = Counter()
        self.num_reasoning_tokens = 0
        self.num_tool_calls = 0
        self._encoding = encoding
        self._num_ranks = encoding.num_ranks
        self._token_bytes = encoding.token_bytes
        self._decoder = codecs.getincrementaldecoder("utf-8")(_ERRORS)
        self._deltas: list[Delta] = []
        self._num_fed = 0
        self._message_index = -1
        self._channel: Channel = "final"
        self._recipient: str | None = None
        self._first_held = 0
        self._num_held = 0
        self._state = _State.HEADER
        self._first_header_token = 0
        self._open_header(b"assistant ")

    @property
    def is_done(self) -> bool:
        """Whether the output has ended."""
        return self._state is _State.DONE

    @property
    def first_held_token(self) -> int:
        """Index of the first token that text still to come may be made of; the number fed where none is."""
        if self._state is _State.HEADER and self._num_header_tokens:
            return self._first_header_token
        return self._first_held if self._num_held else self._num_fed

    @property
    def finish_reason_hint(self) -> Literal["tool_calls", "stop"] | None:
        """Why the output ended as far as its text tells; None while it has not."""
        if not self.is_done:
            return None
        return "tool_calls" if self.num_tool_calls else "stop"

    def feed(self, token_ids: Sequence[int]) -> list[Delta]:
        """Read the next tokens, stop tokens included, and return what they add."""
        position, num_tokens = 0, len(token_ids)
        while position < num_tokens and not self.is_done:
            stop = position
            while stop < num_tokens and 0 <= token_ids[stop] < self._num_ranks:
                stop += 1
            while position < stop and self._state is _State.HEADER:
                self._header_text(token_ids[position], self._num_fed + position)
                position += 1
            if position < stop and self._state is _State.CONTENT:
                text = b"".join(map(self._token_bytes, token_ids[position:stop]))
                self._content(text, self._num_fed + position, stop - position)
            if stop < num_tokens and not self.is_done:
                self._control(token_ids[stop])
            position = stop + 1
        if position < num_tokens and not self.repairs["foreign_speaker"]:
            self.repairs["behind_end"] = 1
        self._num_fed += num_tokens
        return self._take_deltas()

    def finish(self) -> list[Delta]:
        """Return what was held back, as no token follows; a message still open does not end complete."""
        if self._state is _State.HEADER:
            self._close_header()
        if self._state is _State.CONTENT:
            self._flush(is_cut=True)
        return self._take_deltas()

    def _take_deltas(self) -> list[Delta]:
        deltas, self._deltas = self._deltas, []
        return deltas

    def _control(self, token_id: int) -> None:
        """Read a token that is no text."""
        encoding = self._encoding
        if token_id in encoding.stop_token_ids:
            self._end_message(calls=token_id == encoding.call)
            self._state = _State.DONE
        elif token_id == encoding.end:
            self._end_message()
            self._open_header(b"", has_start=False)
        elif token_id == encoding.start:
            self._interrupt_message()
            self._open_header(b"", waits=True)
        elif token_id == encoding.channel and self._state is _State.CONTENT:
            self._interrupt_message()
            self._open_header(CHANNEL_MARK, waits=True)
        elif self._state is _State.CONTENT:
            self.repairs["stray_token"] += 1
            self._flush()
        elif token_id == encoding.message:
            self._close_header(is_complete=True)
        elif token_id in (encoding.channel, encoding.constrain):
            self._header += CHANNEL_MARK if token_id == encoding.channel else CONSTRAIN_MARK
            self._header_waits = True
            self._num_header_tokens = 0
        else:
            self.repairs["stray_token"] += 1

    def _open_header(self, text: bytes, *, waits: bool = False, has_start: bool = True) -> None:
        """Start a header; one that waits is held until its end, others only while they look like one."""
        if self.is_done:
            return
        self._state = _State.HEADER
        self._header = bytearray(text)
        self._header_waits = waits
        self._header_has_start = has_start
        self._num_header_tokens = 0  # of text, since the last control token

    def _header_text(self, token_id: int, index: int) -> None:
        """Add a text token to the header, or find that it is none."""
        if not self._num_header_tokens:
            self._first_header_token = index
        self._num_header_tokens += 1
        self._header += self._token_bytes(token_id).translate(None, CHANNEL_MARK + CONSTRAIN_MARK)
        is_too_long = self._num_header_tokens > MAX_NUM_HEADER_TOKENS
        if is_too_long or not (self._header_waits or may_be_header(bytes(self._header))):
            self._close_header()

    def _close_header(self, *, is_complete: bool = False, calls: bool = False) -> None:
        """Open the message that the header announces, if it has something to say.

        Args:
            is_complete: Whether `<|message|>` came.
            calls: Whether `<|call|>` came: a call needs no arguments.
        """
        header = MessageHeader.parse(bytes(self._header), is_complete=is_complete)
        says_something = is_complete or bool(header.rest) or (calls and header.recipient is not None)
        if says_something or not header.is_assistant:
            self._count_repair(header, is_complete=is_complete)
        if not header.is_assistant:
            self._state = _State.DONE
        elif says_something:
            self._begin_message(header.channel, header.recipient)
            if header.rest and not is_complete:
                self._content(header.rest, self._first_header_token, self._num_header_tokens)
        else:
            self._open_header(b"", has_start=False)

    def _count_repair(self, header: MessageHeader, *, is_complete: bool) -> None:
        """Count what is wrong with a header, if anything, once."""
        if not header.is_assistant:
            self.repairs["foreign_speaker"] += 1
        elif not is_complete:
            has_marks = CHANNEL_MARK in self._header or CONSTRAIN_MARK in self._header
            self.repairs["no_message" if has_marks else "no_header"] += 1
        elif not self._header_has_start:
            self.repairs["no_start"] += 1
        elif not header.names_channel:
            self.repairs["unknown_channel"] += 1
        elif not header.is_clean:
            self.repairs["header_words"] += 1

    def _begin_message(self, channel: Channel, recipient: str | None) -> None:
        self._state = _State.CONTENT
        self._message_index += 1
        self._channel, self._recipient = channel, recipient
        self._deltas.append(Delta(self._message_index, channel, recipient, starts_message=True))

    def _content(self, text: bytes, first_token: int, num_tokens: int) -> None:
        """Add bytes to the message; tokens that end inside a character wait for the rest of it."""
        if self._num_held:
            first_token = self._first_held
            num_tokens += self._num_held
        decoded = self._decoder.decode(text)
        if not decoded:
            self._first_held, self._num_held = first_token, num_tokens
            return
        self._num_held = 0
        self._add_delta(decoded, first_token, num_tokens)

    def _flush(self, *, is_cut: bool = False) -> None:
        """Give up waiting for the rest of a character; an output that was cut inside it is not malformed."""
        if decoded := self._decoder.decode(b"", final=True):
            if is_cut:
                decoded = decoded.replace(_BAD_BYTES, _REPLACEMENT)
            self._add_delta(decoded, self._first_held, self._num_held)
        self._decoder.reset()
        self._num_held = 0

    def _add_delta(self, text: str, first_token: int, num_tokens: int) -> None:
        if num_bad := text.count(_BAD_BYTES):
            self.repairs["bad_utf8"] += num_bad
            text = text.replace(_BAD_BYTES, _REPLACEMENT)
        if self._channel == "analysis" and self._recipient is None:
            self.num_reasoning_tokens += num_tokens
        self._deltas.append(
            Delta(
                self._message_index,
                self._channel,
                self._recipient,
                text,
                first_token=first_token,
                num_tokens=num_tokens,
            )
        )

    def _end_message(self, *, calls: bool = False) -> None:
        """End the message, or the header that never became one, at a control token."""
        if self._state is _State.HEADER and self._header:
            self._close_header(calls=calls)
        if self._state is _State.CONTENT:
            self._flush()
            end = Delta(self._message_index, self._channel, self._recipient, ends_message=True)
            self._deltas.append(end)
            self.num_tool_calls += end.function_name is not None

    def _interrupt_message(self) -> None:
        """End the message where another starts without an `<|end|>` between them."""
        if self._state is _State.CONTENT or self._header:
            self.repairs["no_end"] += 1
            self._end_message()
