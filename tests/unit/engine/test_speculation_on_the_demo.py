"""Drafts from real texts: the demo model's answers are the same, and come in fewer steps."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gptoss_ray.bench.demo_quality import held_out_chats
from gptoss_ray.checkpoint.hub import DEMO, resolve_folder
from gptoss_ray.checkpoint.reader import CheckpointReader
from gptoss_ray.config import EngineConfig
from gptoss_ray.demo_training.conversations import prompt_tokens
from gptoss_ray.engine.engine import Engine
from gptoss_ray.generation import FinishReason, GenerationRequest, SamplingParams
from gptoss_ray.harmony.encoding import HarmonyEncoding
from gptoss_ray.model.transformer import Transformer
from gptoss_ray.structured.grammar import chat_grammar, json_rule
from gptoss_ray.structured.grammar_compiler import CheckpointGrammars
from tests.support.engine_runs import run
from tests.support.grammars import CITY_SCHEMA

CONFIG = EngineConfig(kv_cache_bytes=16 << 20)


@pytest.fixture(scope="module")
def transformer():
    return Transformer.load(CheckpointReader.open(resolve_folder(DEMO)), CONFIG)


@pytest.fixture(scope="module")
def requests():
    """One question of each skill, greedy or drawn, with log probabilities; the last two held to a schema."""
    encoding = HarmonyEncoding.load(resolve_folder(DEMO))
    kinds = (
        {"temperature": 0.0},
        {"temperature": 1.0, "top_p": 0.9},
        {"temperature": 0.0, "frequency_penalty": 0.2},
    )
    made = [
        GenerationRequest(
            f"r{number}",
            tuple(prompt_tokens(encoding, chat)),
            SamplingParams(
                max_tokens=120, seed=number, logprobs=2, stop_token_ids=encoding.stop_token_ids, **kind
            ),
        )
        for number, (chat, kind) in enumerate(zip(held_out_chats(1), kinds * 3, strict=False))
    ]
    grammar = chat_grammar(json_rule(CITY_SCHEMA, is_strict=True, param="x"), {})
    held = [replace(each, params=replace(each.params, grammar=grammar)) for each in made[-2:]]
    return [*made[:-2], *held]


@pytest.fixture(scope="module")
def plain(transformer, requests):
    return answers(transformer, requests, "off")


def answers(transformer, requests, speculation):
    grammars = CheckpointGrammars(resolve_folder(DEMO), transformer.config.vocab_size)
    config = CONFIG.model_copy(update={"speculation": speculation})
    engine = Engine(transformer, config, compile_grammar=grammars.compile)
    texts = {name: answer.text() for name, answer in run(engine, requests).items()}
    engine.close()
    return texts, engine.stats()


@pytest.mark.parametrize("speculation", ["auto", "ngram"])
def test_the_demo_answers_the_same_in_fewer_steps(transformer, requests, plain, speculation):
    texts, stats = answers(transformer, requests, speculation)
    expected, plain_stats = plain
    assert texts == expected
    assert {text[2] for text in texts.values()} <= {FinishReason.STOP, FinishReason.LENGTH}
    assert stats.num_accepted_tokens > 20
    assert stats.num_steps < plain_stats.num_steps


def test_a_resumed_answer_of_the_demo_goes_on_with_drafts_as_without(transformer, requests, plain):
    expected, _ = plain
    resumed = [replace(each, emitted_token_ids=expected[each.request_id][0][:9]) for each in requests]
    texts, stats = answers(transformer, resumed, "ngram")
    assert stats.num_accepted_tokens > 20
    for name, (tokens, logprobs, reason, _) in expected.items():
        assert texts[name] == (tokens[9:], logprobs[9:], reason, ())
