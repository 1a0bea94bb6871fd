"""The header of a message that the model wrote: who speaks, on which channel, to whom.

A header is text with two control tokens in it, `<|channel|>` and `<|constrain|>`; here they are the bytes
0xFF and 0xFE, which UTF-8 never uses. What the model should write, in either order that it was taught::

    assistant<|channel|>commentary to=functions.f <|constrain|>json
    assistant to=functions.f<|channel|>commentary json

What it does write can lack any part, double it or put words between; nothing here raises.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

Channel = Literal["analysis", "commentary", "final"]
CHANNELS: tuple[Channel, ...] = ("analysis", "commentary", "final")

CHANNEL_MARK = b"\xff"
CONSTRAIN_MARK = b"\xfe"

_NOT_RECIPIENTS = ("all", "assistant", "user")
_ROLE = re.compile(
    rb"\s*(?:(?P<foreign>(?:user|system|developer|tool)\b|functions\.[\w.-]+)"
    # The channel may follow without its control token, as in `assistantanalysisWe need`.
    rb"|(?:assistant(?=[^a-z]|$|to=|assistant|analysis|commentary|final)\s*)*"
    rb"(?:(?P<channel>analysis|commentary|final)(?=[A-Z\xfe\xff]|\s*to=|\s*$))?)"
)
_PART = re.compile(
    rb"\s*(?:\xff\s*(?P<channel>analysis|commentary|final|[A-Za-z]*)"
    rb"|to=\s*(?P<recipient>[\w.-]+)|(?P<bare_recipient>functions\.[\w.-]+)"
    rb"|\xfe\s*[a-z]*|(?:json|code)\b)"
)
_BEHIND_A_ROLE = re.compile(rb"\s*(?:[\xfe\xff]|to=|$)")


def _beginnings(*words: bytes) -> bytes:
    """Return a pattern for the words and everything that they begin with."""
    return b"|".join(re.escape(word[:length]) for word in words for length in range(len(word), 0, -1))


_FOREIGN_ROLES = (b"user", b"system", b"developer", b"tool", b"functions.")
_AFTER_ASSISTANT = (b"to=", b"assistant", b"analysis", b"commentary", b"final")

_MAY_BE_HEADER = re.compile(
    rb"\s*(?:(?:assistant\s*)*(?:(?:analysis|commentary|final)\s*)?(?:to=.*|%b)?"
    rb"|%b|(?:user|system|developer|tool|functions\.[\w.-]*)(?:\s+(?:to=.*|%b)?)?)"
    % (_beginnings(*_AFTER_ASSISTANT), _beginnings(*_FOREIGN_ROLES), _beginnings(b"to=")),
    re.DOTALL,
)
_CUT_PART = re.compile(_beginnings(*_AFTER_ASSISTANT, *_FOREIGN_ROLES, b"json"))


def may_be_header(text: bytes) -> bool:
    """Whether text without control tokens can start a header, so that it is too early to show it."""
    return _MAY_BE_HEADER.fullmatch(text) is not None


@dataclass(frozen=True, slots=True)
class MessageHeader:
    """What a header says.

    Attributes:
        is_assistant: False where another speaker's turn begins, which is not the model's to write.
        is_clean: Whether it names one channel, a known one, and holds nothing that is not understood.
        names_channel: Whether the channel that it names is a known one.
        channel: "final" where none, or no known one, is named: better shown than lost.
        recipient: Such as "functions.f"; None for the user.
        rest: Text behind the last part understood, which is no header.
    """

    is_assistant: bool
    is_clean: bool
    names_channel: bool
    channel: Channel
    recipient: str | None
    rest: bytes

    @classmethod
    def parse(cls, header: bytes, *, is_complete: bool) -> MessageHeader:
        """Read a header.

        A complete one ends at its `<|message|>`, so words between its parts are skipped. In an incomplete
        one, whose `<|message|>` never came, the first word that is not understood starts the content.
        """
        role = _ROLE.match(header)
        assert role is not None, "every part of the pattern is optional"
        is_foreign = role["foreign"] is not None and (
            is_complete or _BEHIND_A_ROLE.match(header, role.end("foreign")) is not None
        )
        channel = role["channel"] or b""
        recipient = b""
        is_clean = not is_foreign
        position = role.end() if is_foreign or not role["foreign"] else 0
        find = _PART.search if is_complete else _PART.match
        while (part := find(header, position)) is not None:
            is_clean = is_clean and part.start() == position and not (channel and part["channel"])
            channel = part["channel"] or channel
            recipient = part["recipient"] or part["bare_recipient"] or recipient
            position = part.end()
        rest = header[position:].lstrip()
        if not is_complete and _CUT_PART.fullmatch(rest):
            rest = b""
        known = _known_channel(channel.decode())
        name = recipient.decode()
        return cls(
            is_assistant=not is_foreign,
            is_clean=is_clean and not rest and known == channel.decode(),
            names_channel=known == channel.decode(),
            channel=known,
            recipient=name if name and name not in _NOT_RECIPIENTS else None,
            rest=rest,
        )


def _known_channel(name: str) -> Channel:
    """Return the channel that a name, possibly cut short, stands for."""
    return next((known for known in CHANNELS if name and known.startswith(name.lower())), "final")
