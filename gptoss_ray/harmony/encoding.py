"""Text to token ids and back: a `tiktoken.Encoding` made from the checkpoint's own tokenizer.json.

Nothing is downloaded and no environment variable is read (law 10). Control tokens are found by name, never by
constant id, because a small checkpoint's lie elsewhere than o200k's.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import tiktoken

from gptoss_ray.errors import CheckpointError, InvalidRequestError
from gptoss_ray.harmony import tokenizer_files
from gptoss_ray.harmony.vocabulary import (
    CONTROL_TOKEN_OFFSETS,
    NUM_IDS,
    PATTERN,
    SHIPPED_FILE,
    control_tokens,
    shipped_ranks,
)

_REPLACEMENT = "\N{REPLACEMENT CHARACTER}".encode()


class HarmonyEncoding:
    """The vocabulary of one checkpoint.

    Attributes:
        start, end, message, channel, constrain, return_, call, end_of_text: Ids of the control tokens.
        stop_token_ids: Drawing one of these ends a generation.
        special_token_ids: Name -> id of every control token, reserved ones included.
        vocab_size: Smallest number above every id; the model's logits may have more columns.
    """

    def __init__(self, ranks: dict[bytes, int], special_token_ids: dict[str, int], *, source: Path) -> None:
        """Build from token bytes -> rank and control token name -> id; `source` is named in errors.

        Raises:
            CheckpointError: Ranks have gaps, a byte has no token, or a control token is missing or not free.
        """
        _check(ranks, special_token_ids, source)
        self.special_token_ids = special_token_ids
        self.start = special_token_ids["<|start|>"]
        self.end = special_token_ids["<|end|>"]
        self.message = special_token_ids["<|message|>"]
        self.channel = special_token_ids["<|channel|>"]
        self.constrain = special_token_ids["<|constrain|>"]
        self.return_ = special_token_ids["<|return|>"]
        self.call = special_token_ids["<|call|>"]
        self.end_of_text = special_token_ids["<|endoftext|>"]
        self.stop_token_ids = (self.return_, self.call, self.end_of_text)
        self.num_ranks = len(ranks)
        self.vocab_size = max(special_token_ids.values()) + 1
        self._named_ids = frozenset(
            special_token_ids[name] for name in CONTROL_TOKEN_OFFSETS if name in special_token_ids
        )
        self._bytes = [_REPLACEMENT] * self.vocab_size
        for token, rank in ranks.items():
            self._bytes[rank] = token
        for name, token_id in special_token_ids.items():
            self._bytes[token_id] = name.encode()
        self._tiktoken = tiktoken.Encoding(
            "harmony", pat_str=PATTERN, mergeable_ranks=ranks, special_tokens=special_token_ids
        )

    @classmethod
    def load(cls, folder: Path | None = None) -> HarmonyEncoding:
        """Build from the folder's tokenizer.json, or from the shipped o200k where there is none.

        Raises:
            CheckpointError: tokenizer.json is broken; the message says what is wrong and the remedy.
        """
        if folder is not None and (file := folder / tokenizer_files.FILE_NAME).exists():
            ranks, special_token_ids = tokenizer_files.read_tokenizer(file)
            return cls(ranks, special_token_ids, source=file)
        ranks = shipped_ranks()
        return cls(ranks, control_tokens(len(ranks), NUM_IDS), source=SHIPPED_FILE)

    def encode(self, text: str, *, param: str = "messages") -> list[int]:
        """Encode text as text: `<|end|>` in it becomes five ordinary tokens, never the control token.

        Linear in the length of the text and free of the GIL, but up to a second for a million characters: run
        it in a thread. Lone surrogates, which JSON can carry, become U+FFFD.

        Raises:
            InvalidRequestError: The text cannot be split into words (about a million spaces in a row);
                `param` names the request field it came from.
        """
        try:
            return self._tiktoken.encode(text, disallowed_special=())
        except ValueError as error:
            raise InvalidRequestError(
                f"{param} holds text that cannot be tokenised, such as a million spaces in a row; cut it.",
                param=param,
            ) from error

    def encode_with_special(self, text: str) -> list[int]:
        """Encode trusted text in which names of control tokens stand for them; never for users' text."""
        return self._tiktoken.encode(text, allowed_special="all")

    def token_bytes(self, token_id: int) -> bytes:
        """Return a token's bytes; a control token's are its name, an unknown id's those of U+FFFD."""
        return self._bytes[token_id] if 0 <= token_id < self.vocab_size else _REPLACEMENT

    def decode_bytes(self, token_ids: Iterable[int]) -> bytes:
        """Return the bytes of the tokens in a row."""
        return b"".join(map(self.token_bytes, token_ids))

    def is_special(self, token_id: int) -> bool:
        """Whether the id is no text: a control token, a reserved id, or beyond the vocabulary."""
        return not 0 <= token_id < self.num_ranks

    def is_reserved(self, token_id: int) -> bool:
        """Whether the id is neither text nor a control token with a name of its own."""
        return self.is_special(token_id) and token_id not in self._named_ids


def _check(ranks: dict[bytes, int], special_token_ids: dict[str, int], source: Path) -> None:
    """Raise CheckpointError unless the vocabulary is one that harmony can be written in."""
    remedy = "copy the file from the published checkpoint again."
    if not ranks or sorted(ranks.values()) != list(range(len(ranks))):
        raise CheckpointError(
            f"{source}: ranks are not 0 to {len(ranks) - 1} without gap or repetition; {remedy}"
        )
    missing_bytes = [byte for byte in range(256) if bytes([byte]) not in ranks]
    if missing_bytes:
        raise CheckpointError(
            f"{source}: {len(missing_bytes)} of the 256 bytes have no token, "
            f"first 0x{missing_bytes[0]:02x}; {remedy}"
        )
    required = set(CONTROL_TOKEN_OFFSETS) - {"<|startoftext|>", "<|endofprompt|>"}
    missing = sorted(required - set(special_token_ids))
    if missing:
        raise CheckpointError(f"{source}: control tokens {', '.join(missing)} are missing; {remedy}")
    ids = special_token_ids.values()
    if len(set(ids)) != len(ids) or min(ids) < len(ranks):
        raise CheckpointError(f"{source}: two tokens share an id among the control tokens; {remedy}")
