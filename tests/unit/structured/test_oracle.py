"""What a grammar lets come over the whole o200k vocabulary, read by openai-harmony."""

from __future__ import annotations

import json
from random import Random

import jsonschema

from gptoss_ray.harmony.encoding import HarmonyEncoding
from gptoss_ray.harmony.vocabulary import NUM_IDS, SHIPPED_FILE
from gptoss_ray.structured.grammar import ANY_TEXT, chat_grammar, json_rule
from gptoss_ray.structured.grammar_compiler import GrammarCompiler
from tests.support.grammars import CITY_SCHEMA, walk


def test_openai_harmony_reads_every_walk_without_an_error_and_finds_valid_json(monkeypatch):
    from openai_harmony import HarmonyEncodingName, Role, load_harmony_encoding

    monkeypatch.setenv("TIKTOKEN_ENCODINGS_BASE", str(SHIPPED_FILE.parent))
    oracle = load_harmony_encoding(HarmonyEncodingName.HARMONY_GPT_OSS)
    encoding = HarmonyEncoding.load(None)
    compiler = GrammarCompiler(encoding, NUM_IDS)
    rule = json_rule(CITY_SCHEMA, is_strict=True, param="x")
    kinds = set()
    for seed in range(9):
        grammar = chat_grammar((ANY_TEXT, None, rule)[seed % 3], {"weather": rule} if seed % 3 < 2 else {})
        token_ids = walk(compiler.compile(grammar), encoding, Random(seed))
        *_, last = oracle.parse_messages_from_completion_tokens(token_ids, Role.ASSISTANT)
        kinds.add((last.channel, last.recipient))
        if seed % 3 == 2 or last.recipient == "functions.weather":
            jsonschema.validate(json.loads(last.content[0].text), CITY_SCHEMA)
    assert {channel for channel, _ in kinds} == {"commentary", "final"}
