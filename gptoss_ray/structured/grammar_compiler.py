"""Grammar texts to grammar states, by llguidance, which works on the bytes of a vocabulary's tokens."""

from __future__ import annotations

import hashlib
import re
import threading
from collections import OrderedDict
from functools import cache
from pathlib import Path

from llguidance import LLMatcher, LLParserLimits, LLTokenizer

from gptoss_ray.errors import InvalidRequestError
from gptoss_ray.harmony.encoding import HarmonyEncoding
from gptoss_ray.harmony.tokenizer_files import FILE_NAME
from gptoss_ray.harmony.vocabulary import (
    MIN_NUM_CONTROL_TOKENS,
    NUM_IDS,
    PATTERN,
    SHIPPED_FILE,
    control_tokens,
)
from gptoss_ray.structured.grammar_state import GrammarState

MAX_GRAMMAR_CHARS = 1 << 17
"""Of a grammar's text, in which all of a request's JSON schemas stand."""

MAX_CACHED_GRAMMARS = 128

# Far below llguidance's own, with which a regular expression of 30 characters can take seconds. Over o200k a
# step's fuel is used up in 10 ms, its items in 20 ms by the most ambiguous grammars, whose time grows with
# their square (50,000: 190 ms); an object of 200 optional properties needs most of them.
_LIMITS = LLParserLimits(
    initial_lexer_fuel=50_000, step_lexer_fuel=50_000, step_max_items=15_000, verbose_errors=False
)

_PLACE = re.compile(r"^(?:at )?\d+\(\d+\): ")
_QUOTED_LINE = re.compile(r"^\s*\d+ \| ")


class GrammarCompiler:
    """Compiles grammars for one vocabulary, and keeps the latest; its methods may be called from any thread.

    Making one takes a second or two for o200k and holds the GIL. Compiling takes milliseconds, and lets go of
    the GIL.

    Args:
        encoding: The vocabulary.
        vocab_size: Columns of the model's logits, at least the encoding's.
    """

    def __init__(self, encoding: HarmonyEncoding, vocab_size: int) -> None:
        self._vocab_size = vocab_size
        self._tokenizer = LLTokenizer.from_tiktoken(  # type: ignore[attr-defined]
            encoder={encoding.token_bytes(rank): rank for rank in range(encoding.num_ranks)},
            special_tokens=encoding.special_token_ids,
            pattern=PATTERN,
            # The calls' own stop token stands in the grammar.
            eos_token=[encoding.return_],
            n_vocab=vocab_size,
        )
        self._lock = threading.Lock()
        self._matchers: OrderedDict[bytes, LLMatcher] = OrderedDict()

    def compile(self, grammar: str) -> GrammarState:
        """Return the state of an output that has no token yet.

        Raises:
            InvalidRequestError: The grammar is malformed, says what cannot be enforced, or is too large.
        """
        if len(grammar) > MAX_GRAMMAR_CHARS:
            raise _invalid(
                f"with its JSON schemas it has {len(grammar)} characters, more than {MAX_GRAMMAR_CHARS}"
            )
        try:
            key = hashlib.sha256(grammar.encode()).digest()
        except UnicodeEncodeError:
            raise _invalid("it has half of a surrogate pair, which is no character") from None
        with self._lock:
            matcher = self._matchers.pop(key, None)
            if matcher is not None:
                self._matchers[key] = matcher
        if matcher is None:
            matcher = self._compile(grammar)
            with self._lock:
                self._matchers[key] = matcher
                if len(self._matchers) > MAX_CACHED_GRAMMARS:
                    self._matchers.popitem(last=False)
        return GrammarState(matcher.deep_copy(), self._vocab_size)

    def _compile(self, grammar: str) -> LLMatcher:
        matcher = LLMatcher(self._tokenizer, grammar, log_level=0, limits=_LIMITS)
        if matcher.is_error():
            raise _invalid(_reason(matcher.get_error()))
        return matcher


class CheckpointGrammars:
    """The compiler for a checkpoint, made for the first grammar: a rank compiles one before it steps.

    Args:
        folder: The checkpoint.
        vocab_size: Columns of the model's logits.
    """

    def __init__(self, folder: Path, vocab_size: int) -> None:
        self._folder = folder
        self._vocab_size = vocab_size
        self._lock = threading.Lock()
        self._compiler: GrammarCompiler | None = None

    def compile(self, grammar: str) -> GrammarState:
        """See `GrammarCompiler.compile`; InvalidRequestError, too, where the model speaks no harmony."""
        with self._lock:
            if self._compiler is None:
                self._compiler = self._make()
        return self._compiler.compile(grammar)

    def _make(self) -> GrammarCompiler:
        # Without a tokenizer.json it would be the shipped vocabulary, which takes a second to load.
        if self._vocab_size >= NUM_IDS or (self._folder / FILE_NAME).exists():
            encoding = HarmonyEncoding.load(self._folder)
            if encoding.vocab_size <= self._vocab_size:
                return GrammarCompiler(encoding, self._vocab_size)
        raise _invalid(f"the model's {self._vocab_size} tokens are fewer than its vocabulary has")


@cache
def grammar_checker() -> GrammarCompiler:
    """Return a compiler over a vocabulary of single bytes.

    It accepts and refuses what that of any vocabulary does, is made within a millisecond, and lets an ingress
    refuse a grammar before it gets to a rank.
    """
    ranks = {bytes([byte]): byte for byte in range(256)}
    num_ids = len(ranks) + MIN_NUM_CONTROL_TOKENS
    encoding = HarmonyEncoding(ranks, control_tokens(len(ranks), num_ids), source=SHIPPED_FILE)
    return GrammarCompiler(encoding, num_ids)


def _invalid(reason: str) -> InvalidRequestError:
    return InvalidRequestError(f"The output cannot be held to this grammar: {reason}.", param="grammar")


def _reason(error: str) -> str:
    """Return llguidance's message without the places and lines of a text that the client never saw."""
    lines: list[str] = []
    for line in error.split("\n"):
        if _QUOTED_LINE.match(line) or line.startswith("<"):
            break
        lines.append(_PLACE.sub("", line).strip())
    return " ".join(lines)[:300].rstrip(" .")
