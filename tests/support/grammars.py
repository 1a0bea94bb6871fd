"""Small vocabularies for grammars, walks through what a grammar allows, and outputs taken apart."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from random import Random

import numpy as np

from gptoss_ray.harmony.encoding import HarmonyEncoding
from gptoss_ray.harmony.stream_parser import StreamParser
from gptoss_ray.harmony.vocabulary import MIN_NUM_CONTROL_TOKENS, SHIPPED_FILE, control_tokens
from gptoss_ray.structured.grammar_compiler import GrammarCompiler

CITY_SCHEMA = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "maxLength": 12},
        "days": {"type": "integer", "minimum": 1, "maximum": 14},
        "unit": {"enum": ["celsius", "fahrenheit"]},
        "hours": {"type": "array", "items": {"type": "boolean"}, "maxItems": 3},
    },
    "required": ["city", "unit"],
    "additionalProperties": False,
}


@cache
def byte_encoding() -> HarmonyEncoding:
    """256 bytes and the control tokens behind them: 277 ids."""
    ranks = {bytes([byte]): byte for byte in range(256)}
    return HarmonyEncoding(ranks, control_tokens(256, 256 + MIN_NUM_CONTROL_TOKENS), source=SHIPPED_FILE)


@cache
def byte_compiler() -> GrammarCompiler:
    return GrammarCompiler(byte_encoding(), byte_encoding().vocab_size)


@dataclass
class Parsed:
    """An output's messages by kind, in order: (channel, recipient, text)."""

    messages: list[tuple[str, str | None, str]]
    num_repairs: int
    is_done: bool


def parse(encoding: HarmonyEncoding, token_ids) -> Parsed:
    parser = StreamParser(encoding)
    messages: list[tuple[str, str | None, str]] = []
    for delta in [*parser.feed(token_ids), *parser.finish()]:
        if delta.starts_message:
            messages.append((delta.channel, delta.recipient, ""))
        channel, recipient, text = messages[-1]
        messages[-1] = (channel, recipient, text + delta.text)
    return Parsed(messages, parser.repairs.total(), parser.is_done)


@cache
def _ending_ids(encoding: HarmonyEncoding) -> tuple[int, ...]:
    """Tokens that end a string, an object, a list or a message."""
    texts = [encoding.encode(text) for text in ('"', "}", "]", '"}', "}]", '"]')]
    return (*(ids[0] for ids in texts if len(ids) == 1), *encoding.special_token_ids.values())


def walk(state, encoding: HarmonyEncoding, rng: Random, max_tokens: int = 4000) -> list[int]:
    """Draw allowed tokens up to a stop token, those that end something more often than chance would."""
    token_ids: list[int] = []
    for _ in range(max_tokens):
        allowed = state.allowed()
        ending = [id_ for id_ in _ending_ids(encoding) if allowed[id_]]
        token_id = rng.choice(ending) if ending and rng.random() < 0.25 else _any_of(allowed, rng)
        assert state.advance(token_id)
        token_ids.append(token_id)
        if token_id in encoding.stop_token_ids:
            return token_ids
    raise AssertionError(f"no stop token in {max_tokens} tokens")


def _any_of(allowed, rng: Random) -> int:
    token_ids = np.flatnonzero(allowed)
    return int(token_ids[rng.randrange(len(token_ids))])
