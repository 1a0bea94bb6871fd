from __future__ import annotations

import json

import pytest
import torch
from typer.testing import CliRunner

from gptoss_ray.cli import app
from gptoss_ray.errors import ConfigError

NEEDS_NO_CARD = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a card")


def run(*arguments):
    return CliRunner().invoke(app, ["bench", "gpu", *arguments])


@pytest.mark.parametrize("shape", ["gpt-oss-20b", "gpt-oss-120b"])
def test_accounting_needs_no_card(tmp_path, shape):
    json_file, plot_file = tmp_path / "figures.json", tmp_path / "plot.png"
    options = ["--json", str(json_file), "--plot", str(plot_file)]
    result = run("--shape", shape, "--accounting", "--streams", "1,8", "--contexts", "1024", *options)
    assert result.exit_code == 0, result.output
    assert "steps on paper" in result.output
    document = json.loads(json_file.read_text())
    assert document["shape"] == shape
    assert document["has_run"] is False
    assert len(document["tables"]) == 2
    assert plot_file.stat().st_size > 1000


@pytest.mark.parametrize(
    ("option", "narrow", "words", "kernel"),
    [
        (("--kv-cache-dtype", "fp8"), {"kv_cache_dtype": "fp8"}, "KV in fp8", "attention"),
        (("--dense", "int8"), {"dense": "int8"}, "dense weights in int8", "unembedding"),
    ],
)
def test_what_8_bits_save_is_told_apart(tmp_path, option, narrow, words, kernel):
    def megabytes(*changes):
        json_file = tmp_path / "figures.json"
        options = ["--streams", "1", "--contexts", "32768", "--prompts", "", "--json", str(json_file)]
        result = run("--accounting", *options, *changes)
        assert result.exit_code == 0, result.output
        document = json.loads(json_file.read_text())
        steps, kernels = document["tables"]
        formats = {"kv_cache_dtype": "auto", "dense": "bfloat16"} | (narrow if changes else {})
        assert {name: document[name] for name in formats} == formats
        assert (words in steps) == bool(changes)
        return {row["kernel"]: row["mb"] for row in document["tables"][kernels]}

    wide, saving = megabytes(), megabytes(*option)
    assert saving[kernel] < 0.54 * wide[kernel]
    assert saving["experts: down"] == wide["experts: down"]


def test_the_hosts_part_of_steps_is_measured_without_a_card(tmp_path):
    json_file = tmp_path / "figures.json"
    options = ["--streams", "1,3", "--contexts", "40", "--prompts", "", "--steps", "4"]
    result = run("--shape", "tiny", "--accounting", "--host", *options, "--json", str(json_file))
    assert result.exit_code == 0, result.output
    rows = json.loads(json_file.read_text())["tables"]["the host's part of a step, here"]
    assert [(row["streams"], row["tokens"]) for row in rows] == [(1, 40), (3, 40)]
    assert all(row["host_ms"] >= row["least_ms"] > 0 for row in rows)


@NEEDS_NO_CARD
def test_without_a_card_the_benchmark_says_so_and_fails():
    result = run("--shape", "tiny", "--contexts", "1024", "--prompts", "64")
    assert result.exit_code != 0
    assert isinstance(result.exception, ConfigError)
    assert "no CUDA device" in str(result.exception)
    assert "--accounting" in str(result.exception)


def test_an_unknown_card_is_refused_with_the_choices():
    result = run("--accounting", "--gpu", "h9000")
    assert isinstance(result.exception, ConfigError)
    assert "h200" in str(result.exception)


@NEEDS_NO_CARD
def test_tiles_are_not_measured_without_a_card():
    result = CliRunner().invoke(app, ["bench", "tiles"])
    assert isinstance(result.exception, ConfigError)
    assert "finds no GPU" in str(result.exception)
