import json

import pytest

from gptoss_ray.checkpoint.model_config import ModelConfig
from gptoss_ray.checkpoint.synthetic import tiny_config
from gptoss_ray.checkpoint.tokenizer_check import CONTROL_TOKENS, check_tokenizer

CONFIG = tiny_config(vocab_size=64, eos_token_ids=(37,))


def check(tmp_path, document, config=CONFIG):
    (tmp_path / "tokenizer.json").write_text(document if isinstance(document, str) else json.dumps(document))
    return [defect.problem for defect in check_tokenizer(tmp_path, config)]


def test_a_fitting_tokenizer_passes(tmp_path, make_tokenizer):
    assert check(tmp_path, make_tokenizer(32)) == []


def test_an_id_beyond_the_vocabulary_is_named(tmp_path, make_tokenizer):
    assert check(tmp_path, make_tokenizer(60))[0] == "token '<|constrain|>' has id 64, but vocab_size is 64"


@pytest.mark.parametrize("token", CONTROL_TOKENS)
def test_a_missing_control_token_is_named(tmp_path, make_tokenizer, token):
    document = make_tokenizer(32)
    document["added_tokens"] = [entry for entry in document["added_tokens"] if entry["content"] != token]
    assert any(token in problem for problem in check(tmp_path, document))


def test_two_tokens_with_one_id_are_named(tmp_path, make_tokenizer):
    document = make_tokenizer(32)
    document["model"]["vocab"]["again"] = 3
    assert check(tmp_path, document) == ["tokens 'w3' and 'again' share id 3"]


def test_the_end_of_sequence_must_be_a_control_token(tmp_path, make_tokenizer):
    problems = check(tmp_path, make_tokenizer(32), CONFIG.replace(eos_token_ids=(5,)))
    assert problems == ["eos_token_id 5 of config.json is none of its control tokens"]


@pytest.mark.parametrize(
    "document",
    ["", "[]", "{}", '{"model": 1}', '{"model": {"vocab": []}}', '{"model": {"vocab": {"a": -1}}}',
     '{"model": {"vocab": {}}, "added_tokens": [3]}', '{"model": {"vocab": {"a": true}}}', "[" * 99_999],
)  # fmt: skip
def test_a_malformed_tokenizer_is_a_defect(tmp_path, document):
    assert check(tmp_path, document)


def test_only_the_published_vocabulary_may_do_without_a_tokenizer(tmp_path):
    assert check_tokenizer(tmp_path, ModelConfig.published("gpt-oss-20b")) == []
    (defect,) = check_tokenizer(tmp_path, CONFIG)
    assert "vocab_size 64" in defect.problem
