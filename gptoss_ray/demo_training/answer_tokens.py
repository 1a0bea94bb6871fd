"""The tokens of an answer, with copied parts taken from the prompt as the prompt has them.

A word reads the same behind a space and behind a quotation mark, but BPE cuts it differently. A model that
copies names it has never seen does so token by token; so a copied part keeps the prompt's tokens, and only
its first one is cut anew where the space before it is not wanted.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from gptoss_ray.harmony.encoding import HarmonyEncoding

_MARKED = re.compile("(⟦.*?⟧|⟪.*?⟫)", re.DOTALL)


class PromptText:
    """A prompt's text with the place of every token in it."""

    def __init__(self, encoding: HarmonyEncoding, token_ids: Sequence[int]) -> None:
        self._encoding = encoding
        self._token_ids = token_ids
        self._starts: list[int] = []
        chunks: list[bytes] = []
        length = 0
        for token_id in token_ids:
            chunk = encoding.token_bytes(token_id)
            self._starts.append(length)
            chunks.append(chunk)
            length += len(chunk)
        self._starts.append(length)
        self._text = b"".join(chunks)

    def find(self, text: str) -> tuple[int, int]:
        """Where the text last stands as whole words, behind a space if it ever does: first byte and end.

        Raises:
            ValueError: The prompt does not hold it.
        """
        places = [
            match.span()
            for match in re.finditer(rb"(?<!\w)" + re.escape(text.encode()) + rb"(?!\w)", self._text)
        ]
        if not places:
            raise ValueError(f"nothing to copy: {text!r} is not in the prompt")
        after_space = [place for place in places if self._text[place[0] - 1 : place[0]] == b" "]
        return (after_space or places)[-1]

    def copy(self, text: str, *, with_space: bool) -> list[int]:
        """The tokens of the text where it stands in the prompt, with or without the space before it."""
        begin, end = self.find(text)
        first = next(i for i in range(len(self._starts)) if self._starts[i + 1] > begin)
        last = next(i for i in range(first, len(self._starts)) if self._starts[i + 1] >= end)
        if self._starts[first] == begin - 1 and self._text[begin - 1 : begin] == b" " and with_space:
            head = (
                [self._token_ids[first]] if self._starts[first + 1] <= end else self._encode(begin - 1, end)
            )
        else:
            head = self._encode(begin, min(self._starts[first + 1], end))
            if with_space:
                head = [*self._encoding.encode(" "), *head]
        if first == last:
            return head
        tail = (
            self._encode(self._starts[last], end) if self._starts[last + 1] > end else [self._token_ids[last]]
        )
        return [*head, *self._token_ids[first + 1 : last], *tail]

    def _encode(self, begin: int, end: int) -> list[int]:
        return self._encoding.encode(self._text[begin:end].decode())

    def encode(self, marked: str) -> list[int]:
        """Encode text in which `⟦…⟧` marks copies and `⟪…⟫` names; control tokens are read as such."""
        token_ids: list[int] = []
        pieces = _MARKED.split(marked)
        for index, piece in enumerate(pieces):
            if index % 2 == 0:
                is_before_mark = index + 1 < len(pieces) and piece.endswith(" ")
                token_ids += self._encoding.encode_with_special(piece[:-1] if is_before_mark else piece)
                continue
            text, with_space = piece[1:-1], pieces[index - 1].endswith(" ")
            if piece.startswith("⟦"):
                token_ids += self.copy(text, with_space=with_space)
            else:
                token_ids += self._encoding.encode(" " * with_space) + self._encoding.encode(text)
        return token_ids
