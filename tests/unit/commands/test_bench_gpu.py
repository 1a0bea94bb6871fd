from __future__ import annotations

import json

import pytest
import torch
from typer.testing import CliRunner

from gptoss_ray.bench.engine_cases import DecodeCase
from gptoss_ray.bench.gpu import GpuReport
from gptoss_ray.bench.gpu_cases import GpuBench, GpuStep
from gptoss_ray.bench.transformers_comparison import ComparedStep, Comparison
from gptoss_ray.bench.transformers_memory import plan_comparison
from gptoss_ray.bench.transformers_under_test import PeerUsage, Trial
from gptoss_ray.checkpoint.model_config import ModelConfig
from gptoss_ray.cli import app
from gptoss_ray.errors import ConfigError, GptossError
from gptoss_ray.planner.gpu_steps import Ceilings

NEEDS_NO_CARD = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a card")
CASE = DecodeCase(1, 1024)
MODEL = ModelConfig.published("gpt-oss-20b")
BENCH = GpuBench("gpt-oss-20b", MODEL, streams=(1,), contexts=(1024,), prompts=(2048,))


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


def test_the_faster_mode_is_named_in_what_is_printed_and_kept(tmp_path):
    json_file = tmp_path / "figures.json"
    options = ["--streams", "256", "--contexts", "1024", "--prompts", "", "--json", str(json_file)]
    result = run("--accounting", *options, "--dense-matmuls", "cublas")
    assert result.exit_code == 0, result.output
    document = json.loads(json_file.read_text())
    assert document["dense_matmuls"] == "cublas"
    steps, kernels = document["tables"]
    assert "not batch-invariant" in steps
    kernels = {row["kernel"]: row["launches"] for row in document["tables"][kernels]}
    assert (kernels["attention output"], kernels["experts: down"]) == (48, 24)
    refused = run("--accounting", *options, "--dense-matmuls", "cublas", "--dense", "int8")
    assert refused.exit_code != 0


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


def test_a_comparison_with_transformers_is_planned_without_a_card(tmp_path):
    json_file = tmp_path / "figures.json"
    options = ["--shape", "gpt-oss-120b", "--layers", "6", "--streams", "1,8", "--contexts", "1024"]
    result = run(*options, "--accounting", "--transformers", "bfloat16", "--json", str(json_file))
    assert result.exit_code == 0, result.output
    document = json.loads(json_file.read_text())
    assert document["shape"] == "gpt-oss-120b, 6 layers"
    (row,) = document["tables"]["a comparison with transformers, on paper"]
    assert (row["experts"], row["cases"], row["cases_left_out"]) == ("bfloat16", 2, 0)
    assert 40 < row["their_weights_gb"] < 42


def test_a_comparison_that_no_card_can_hold_is_refused():
    result = run("--shape", "gpt-oss-120b", "--accounting", "--transformers", "bfloat16")
    assert isinstance(result.exception, ConfigError)
    assert "--layers" in str(result.exception)


def measured(comparison=None, failure="") -> GpuReport:
    """A report as a card would give it."""
    steps = (GpuStep.of_decode(BENCH, CASE, (0.002,)), GpuStep.of_prompt(BENCH, 2048, (0.04,)))
    sizes = {"peak_bytes": 20 * 10**9, "planned_bytes": 21 * 10**9}
    others = {"card": {"card": "a card"}, "ceilings": Ceilings(4e12, 8e14), "parts": {}, "left_out": ()}
    return GpuReport(bench=BENCH, steps=steps, comparison=comparison, failure=failure, **sizes, **others)


def test_a_comparison_goes_into_tables_json_and_plot(tmp_path, monkeypatch):
    trial = Trial(PeerUsage("eager", "grouped_mm", "static"), {})
    compared = ComparedStep("decode", 1, 1024, trial, ours_s=[0.002, 0.002], theirs_s=[0.02, 0.03])
    plan = plan_comparison(BENCH, "bfloat16", 126 * 10**9)
    report = measured(Comparison(plan, "5.0", (compared,), 70 * 10**9))
    monkeypatch.setattr("gptoss_ray.bench.gpu.run", lambda bench, note, peer: report)
    json_file, plot_file = tmp_path / "figures.json", tmp_path / "plot.svg"
    result = run("--transformers", "bfloat16", "--json", str(json_file), "--plot", str(plot_file))
    assert result.exit_code == 0, result.output
    assert "12.5 (10 to 15)" in result.output
    assert "eager, grouped_mm, static cache" in result.output
    (written,) = json.loads(json_file.read_text())["transformers"]
    assert written["transformers_s"] == [0.02, 0.03]
    assert "transformers -->" in plot_file.read_text()


def test_a_comparison_that_fails_costs_none_of_our_figures_and_is_told(tmp_path, monkeypatch):
    report = measured(failure="RuntimeError: an illegal instruction")
    monkeypatch.setattr("gptoss_ray.bench.gpu.run", lambda bench, note, peer: report)
    json_file = tmp_path / "figures.json"
    result = run("--transformers", "bfloat16", "--json", str(json_file))
    assert isinstance(result.exception, GptossError)
    assert "an illegal instruction" in str(result.exception)
    assert "gpt-oss-20b: steps" in json.loads(json_file.read_text())["tables"]
