import json

import pytest
from transformers import GptOssConfig

from gptoss_ray.checkpoint.model_config import ModelConfig, alternating_layer_types, read_layout
from gptoss_ray.checkpoint.synthetic import tiny_config
from gptoss_ray.errors import CheckpointError

PUBLISHED_ORIGINAL = {
    "num_hidden_layers": 24, "num_experts": 32, "experts_per_token": 4, "vocab_size": 201088,
    "hidden_size": 2880, "intermediate_size": 2880, "swiglu_limit": 7.0, "head_dim": 64,
    "num_attention_heads": 64, "num_key_value_heads": 8, "sliding_window": 128,
    "initial_context_length": 4096, "rope_theta": 150000, "rope_scaling_factor": 32.0,
    "rope_ntk_alpha": 1, "rope_ntk_beta": 32,
}  # fmt: skip


def read(tmp_path, document):
    (tmp_path / "config.json").write_text(json.dumps(document))
    return ModelConfig.from_folder(tmp_path)


@pytest.mark.parametrize("name", ["gpt-oss-20b", "gpt-oss-120b"])
@pytest.mark.parametrize("layout", ["huggingface", "original"])
def test_a_published_config_survives_writing_and_reading(tmp_path, name, layout):
    config = ModelConfig.published(name)
    again = read(tmp_path, config.to_json(layout))
    assert read_layout(tmp_path) == layout
    if layout == "original":  # which knows no tokens
        config = config.replace(eos_token_ids=(), pad_token_id=None)
    assert again == config


def test_the_published_original_config_is_the_20b_shape(tmp_path):
    shape = ModelConfig.published("gpt-oss-20b").replace(eos_token_ids=(), pad_token_id=None)
    assert read(tmp_path, PUBLISHED_ORIGINAL) == shape


def test_layers_alternate_and_the_first_one_slides():
    config = ModelConfig.published("gpt-oss-20b")
    assert [config.is_sliding(layer) for layer in range(4)] == [True, False, True, False]


def test_transformers_understands_our_config_and_we_understand_its_own(tmp_path):
    config = tiny_config(
        rope_theta=10000.0, rope_beta_fast=16.0, eos_token_ids=(7,), expert_format="unquantized"
    )
    theirs = GptOssConfig(**config.to_json("huggingface"))
    assert theirs.rope_parameters["rope_theta"] == 10000.0
    theirs.save_pretrained(tmp_path)
    assert "rope_scaling" not in json.loads((tmp_path / "config.json").read_text())
    assert ModelConfig.from_folder(tmp_path) == config


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"hidden_act": "gelu"}, ["hidden_act", "'gelu'", "'silu'"]),
        ({"tie_word_embeddings": True}, ["tie_word_embeddings", "True", "False"]),
        ({"model_type": "llama"}, ["model_type", "'llama'", "'gpt_oss'"]),
        (
            {"quantization_config": {"quant_method": "gptq"}},
            ["quantization_config.quant_method", "'gptq'", "'mxfp4'"],
        ),
        ({"rope_scaling": {"rope_type": "linear"}}, ["rope_scaling.rope_type", "'linear'", "'yarn'"]),
        ({"rope_scaling": {"rope_type": "yarn"}}, ["rope_scaling.truncate", "True", "False"]),
        ({"rope_scaling": None}, ["rope_scaling", "absent", "yarn"]),
        ({"hidden_size": "2880"}, ["hidden_size", "'2880'", "integer"]),
        ({"hidden_size": True}, ["hidden_size", "True", "integer"]),
        ({"num_hidden_layers": 10**9}, ["num_hidden_layers", "1000000000", "integer from 1 to"]),
        ({"rms_norm_eps": -1}, ["rms_norm_eps", "-1", "above 0"]),
        ({"head_dim": 15}, ["head_dim 15", "pairs"]),
        ({"num_key_value_heads": 3}, ["num_attention_heads 8", "num_key_value_heads 3"]),
        ({"hidden_size": 40}, ["hidden_size 40", "MXFP4 block"]),
        ({"layer_types": ["sliding_attention"]}, ["layer_types", "4 of"]),
        ({"eos_token_id": 99999}, ["eos_token_id", "vocab_size 512"]),
    ],
)
def test_an_unsupported_value_is_named_with_what_is_supported(tmp_path, change, named):
    with pytest.raises(CheckpointError) as error:
        read(tmp_path, tiny_config().to_json("huggingface") | change)
    assert all(part in str(error.value) for part in ["config.json", *named])


@pytest.mark.parametrize("content", ["", "[]", '{"a": 1, "a": 2}', "[" * 100_000, '{"a": NaN}', "\xff"])
def test_a_malformed_config_is_one_clear_error(tmp_path, content):
    (tmp_path / "config.json").write_bytes(content.encode("latin-1"))
    with pytest.raises(CheckpointError, match=r"config\.json"):
        ModelConfig.from_folder(tmp_path)


def test_a_folder_without_config_is_named_with_a_remedy(tmp_path):
    with pytest.raises(CheckpointError, match="no such file; is this the folder"):
        ModelConfig.from_folder(tmp_path)


def test_the_original_layout_refuses_what_it_cannot_express():
    for change in ({"max_context": 999}, {"layer_types": ("full_attention",) * 4}, {"rms_norm_eps": 1e-6}):
        with pytest.raises(CheckpointError, match="original layout implies"):
            tiny_config(**change).to_json("original")


def test_fewer_layers_keep_the_alternation():
    assert ModelConfig.published("gpt-oss-20b").replace(num_layers=3).layer_types == alternating_layer_types(
        3
    )


def test_an_unknown_published_name_is_refused():
    with pytest.raises(ValueError, match="gpt-oss-20b, gpt-oss-120b"):
        ModelConfig.published("gpt-4")
