"""A loaded checkpoint with the real network, on random weights, held to a grammar."""

from __future__ import annotations

import json

import jsonschema

from gptoss_ray.checkpoint.synthetic import tiny_config, write_checkpoint
from gptoss_ray.config import EngineConfig, ServedModelConfig
from gptoss_ray.generation import GenerationRequest, SamplingParams
from gptoss_ray.harmony.encoding import HarmonyEncoding
from gptoss_ray.harmony.tokenizer_files import write_tokenizer
from gptoss_ray.ranks.engine_loader import load_engine
from gptoss_ray.structured.grammar import chat_grammar, json_rule
from tests.support.engine_runs import run
from tests.support.grammars import CITY_SCHEMA, parse


def test_an_engine_speaks_the_vocabulary_of_its_checkpoint_in_grammars(tmp_path):
    write_checkpoint(tmp_path, tiny_config(vocab_size=330))
    write_tokenizer(tmp_path, 300)
    encoding = HarmonyEncoding.load(tmp_path)
    config = ServedModelConfig(
        name="tiny", checkpoint=str(tmp_path), engine=EngineConfig(kv_cache_bytes=4 << 20, max_context=1000)
    )
    engine = load_engine(config, 0, None, (), lambda _: None)
    requests = [
        GenerationRequest(
            f"r{seed}",
            (1, 2, 3),
            SamplingParams(
                seed=seed,
                max_tokens=800,
                stop_token_ids=encoding.stop_token_ids,
                logit_bias=tuple((token_id, 6.0) for token_id in (*encoding.encode('"'), encoding.end)),
                grammar=chat_grammar(json_rule(CITY_SCHEMA, is_strict=True, param="x"), {}),
            ),
        )
        for seed in range(4)
    ]
    for answer in run(engine, requests).values():
        output = parse(encoding, answer.token_ids)
        assert (output.is_done, output.num_repairs) == (True, 0)
        jsonschema.validate(json.loads(output.messages[-1][2]), CITY_SCHEMA)
