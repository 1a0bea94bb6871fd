import json
import os

import pytest
from typer.testing import CliRunner

from gptoss_ray.checkpoint.model_config import ModelConfig
from gptoss_ray.commands.checkpoint import checkpoint_app, make_config
from gptoss_ray.errors import CheckpointError, ConfigError


def run(*arguments):
    result = CliRunner().invoke(checkpoint_app, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.mark.parametrize("layout", ["huggingface", "original"])
def test_what_make_writes_is_sound_and_inspected(tmp_path, layout):
    folder = tmp_path / "x"
    run("make", folder, "--layers", 2, "--set", "num_experts=16", "--layout", layout)
    assert "sound" in run("verify", folder)
    shown = run("inspect", folder)
    assert f"({layout} layout)" in shown.replace("\n", "")
    assert "16, 4 per token, mxfp4" in shown
    assert "model.safetensors" in shown
    assert "one decoded token reads" in shown.replace("\n", " ")


def test_verify_prints_every_defect_and_fails(tmp_path, capsys):
    folder = tmp_path / "x"
    run("make", folder)
    os.truncate(folder / "model.safetensors", 3000)
    result = CliRunner().invoke(checkpoint_app, ["verify", str(folder)])
    assert isinstance(result.exception, CheckpointError)
    assert "do not serve it" in str(result.exception)
    assert "defect model.safetensors: truncated" in result.stdout


def test_the_tokenizer_of_a_made_checkpoint_fits_its_config(tmp_path):
    run("make", tmp_path, "--set", "vocab_size=700")
    config = ModelConfig.from_folder(tmp_path)
    added = json.loads((tmp_path / "tokenizer.json").read_text())["added_tokens"]
    ids = {token["content"]: token["id"] for token in added}
    assert config.eos_token_ids == (ids["<|return|>"],)
    assert max(ids.values()) < config.vocab_size == 700


@pytest.mark.parametrize("name", ["gpt-oss-20b", "gpt-oss-120b"])
def test_a_published_name_makes_the_published_shape(name):
    assert make_config(name, None, []) == (ModelConfig.published(name), 199_998)
    assert make_config(name, 2, [])[0] == ModelConfig.published(name).replace(num_layers=2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("hidden_sice=8", "did you mean hidden_size?"),
        ("layer_types=full", "no field is called 'layer_types'"),
        ("hidden_size=wide", "'wide' is no int"),
        ("vocab_size=100", "needs at least 277"),
    ],
)
def test_a_wrong_change_is_refused_with_the_remedy(change, message):
    with pytest.raises(ConfigError, match=message.replace("?", r"\?")):
        make_config("tiny", None, [change])


def test_a_shape_that_cannot_be_is_refused():
    with pytest.raises(CheckpointError, match="hidden_size 40 is no multiple"):
        make_config("tiny", None, ["hidden_size=40"])
