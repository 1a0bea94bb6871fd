from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from gptoss_ray.cli import app
from gptoss_ray.commands.bench_speed import numbers
from gptoss_ray.errors import ConfigError
from tests.support.backends import needs_native


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def call(*arguments: str) -> str:
    result = CliRunner().invoke(app, ["bench", *arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_an_engine_of_a_random_checkpoint_is_measured_and_written_as_json(tmp_path):
    file = tmp_path / "engine.json"
    options = "--shape tiny --layers 2 --kernels torch --threads 1 --prompts 16 --streams 1,2 --context 8"
    more = f"--long-context 32 --rounds 1 --steps 2 --no-starts --json {file}"
    printed = call("engine", *options.split(), *more.split())
    assert "decode" in printed and "prompts" in printed
    document = json.loads(file.read_text())
    assert document["shape"] == "tiny" and document["num_layers"] == 2
    assert document["engine"]["num_threads"] == 1 and document["machine"]["cpus"] >= 1
    assert [row["tokens"] for row in document["prefill"]] == [16]
    assert [(row["streams"], row["context"]) for row in document["decode"]] == [(1, 8), (2, 8), (1, 32)]
    assert {"tokens_per_s", "p50_ms", "p95_ms", "rounds_tokens_per_s"} <= set(document["decode"][0])
    assert {"load_s", "first_token_s", "peak_gb", "peak_anonymous_gb", "peak_file_gb"} <= set(
        document["starts"][0]
    )


@needs_native
def test_an_engine_is_measured_with_8_bit_activations_where_dense_weights_have_8_bits_too(tmp_path):
    file = tmp_path / "engine.json"
    options = "--shape tiny --layers 2 --threads 1 --prompts 16 --streams= --long-context 0 --rounds 1"
    more = ["--no-starts", "--activations", "int8", "--json", str(file)]
    call("engine", *options.split(), *more, "--dense", "int8")
    document = json.loads(file.read_text())
    assert document["activations"] == document["engine"]["activations"] == "int8"
    assert "activations=int8" in document["fingerprint"]
    with pytest.raises(ConfigError, match="set dense_weights to int8 too"):
        call("engine", *options.split(), *more)


@needs_native
def test_kernels_are_measured_and_written_as_json(tmp_path):
    file = tmp_path / "kernels.json"
    call("kernels", "--shape", "tiny", "--threads", "1", "--json", str(file))
    document = json.loads(file.read_text())
    assert document["kernels"].startswith("native-") and document["num_threads"] == 1
    assert {"kernel", "weights", "activations", "rows", "median_us", "gb_per_s", "percent_of_ceiling"} <= set(
        document["results"][0]
    )
    assert [row["when"] for row in document["ceilings"]] == ["before", "after"]


def test_layers_cannot_be_asked_of_a_checkpoint_that_is_there(tmp_path):
    with pytest.raises(ConfigError, match="leave out --layers"):
        call("engine", "--checkpoint", str(tmp_path), "--layers", "2")


@pytest.mark.parametrize("text", ["0", "1,x", "1,-4", "1.5"])
def test_numbers_that_are_none_are_refused_with_an_example(text):
    with pytest.raises(ConfigError, match=r"--streams is .*; give numbers above 0 between commas, as 1,4,16"):
        numbers("streams", text)


def test_numbers_may_be_none_at_all():
    assert numbers("prompts", "") == ()
    assert numbers("prompts", "1, 4,") == (1, 4)
