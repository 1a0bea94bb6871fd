from __future__ import annotations

import json
import re

import pytest
import typer
from typer.testing import CliRunner

from gptoss_ray.commands.plan import plan
from gptoss_ray.errors import ConfigError

app = typer.Typer()
app.command()(plan)


def run(*args: object) -> str:
    result = CliRunner().invoke(app, [str(arg) for arg in args], env={"COLUMNS": "200"})
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.stdout


def test_tables_show_every_layout_and_the_best_with_its_memory():
    shown = run("gpt-oss-120b", "--gpus", 8)
    for part in ("8 replicas", "1 replica x 8 ranks", "KV cache", "dispatch buffers", "NVLink 4"):
        assert part in shown
    assert "Best:" in shown
    assert "not measurements" in shown


def test_json_has_the_same_figures_for_programs():
    document = json.loads(run("openai/gpt-oss-20b", "--gpu", "H200", "--gpus", 2, "--json"))
    assert [layout["name"] for layout in document["layouts"]] == ["2 replicas", "1 replica x 2 ranks"]
    assert document["best"] in ("2 replicas", "1 replica x 2 ranks")
    assert document["layouts"][0]["prediction"]["memory"]["expert_bytes"] > 10e9
    assert document["cluster"]["accelerator"]["name"] == "H200 SXM"


def test_eight_bit_formats_are_planned_and_refused_where_no_kernel_reads_them():
    def best(*options: str) -> dict:
        document = json.loads(run("gpt-oss-20b", "--gpu", "h200", "--json", *options))
        return document["layouts"][0]["prediction"]

    plain, small = best(), best("--kv-cache-dtype", "fp8", "--dense", "int8")
    assert small["kv_tokens"] > 1.9 * plain["kv_tokens"]
    assert small["memory"]["expert_bytes"] == plain["memory"]["expert_bytes"]
    assert small["decode_tokens_per_s"] > plain["decode_tokens_per_s"]
    with pytest.raises(ConfigError, match="which is for GPUs"):
        run("gpt-oss-20b", "--gpu", "cpu", "--kv-cache-dtype", "fp8")


def test_what_does_not_fit_is_said_with_the_numbers(monkeypatch):
    monkeypatch.setattr("gptoss_ray.model.host_memory.host_memory_bytes", lambda: 16 * 10**9)
    shown = run("gpt-oss-120b", "--gpu", "cpu").replace("\n", " ")
    assert "does not fit" in shown
    # Native kernels hold biases in float32, torch in bfloat16.
    assert re.search(r"experts of the rank (60\.99|61\.07) GB", shown)


def test_ranks_of_the_demo_share_this_machine():
    shown = run("demo", "--gpu", "cpu", "--gpus", 2, "--context", 1024)
    assert "shared memory" in shown
    assert "1 replica x 2 ranks" in shown


@pytest.mark.parametrize(
    ("args", "choices"),
    [
        (["gpt-oss-7b"], "choose from gpt-oss-20b, gpt-oss-120b, demo, or the folder of a checkpoint"),
        (["gpt-oss-20b", "--gpu", "tpu"], "choose from a100, h100, h200, b200, cpu"),
        (["gpt-oss-20b", "--network", "modem"], "choose from nvlink, infiniband, 100gbe"),
    ],
)
def test_an_unknown_name_is_refused_with_the_choices(args, choices):
    with pytest.raises(ConfigError, match=choices):
        run(*args)
