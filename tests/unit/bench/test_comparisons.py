"""The stand-alone scripts of tests/benchmarks, with stand-ins for the programs of llama.cpp."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[2] / "benchmarks"
REPOSITORY = SCRIPTS.parents[1]

LLAMA_BENCH = """#!/bin/sh
echo "register_backend: registered backend CPU" >&2
case "$*" in
*" -d 192 "*) echo '[{"n_prompt": 0, "n_gen": 4, "n_depth": 192, "avg_ts": 1.5, "samples_ts": [ 1.5 ]}]' ;;
*) echo '[
  {"n_prompt": 16, "n_gen": 0, "n_depth": 0, "avg_ts": 10.0, "samples_ts": [ 10.0 ]},
  {"n_prompt": 0, "n_gen": 4, "n_depth": 0, "avg_ts": 2.5, "samples_ts": [ 2.5 ]}
]' ;;
esac
"""
BATCHED_BENCH = """#!/bin/sh
echo "main: n_kv_max = 4096"
echo '{"n_kv_max": 4096, "pp": 128, "tg": 4, "pl": 2, "speed_pp": 1.5, "speed_tg": 3.5, "t": 1.0}'
"""
OPTIONS = ["--threads", "1", "--rounds", "2", "--prompts", "16", "--shape", "tiny", "--kernels", "torch"]


def call(script: str, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"XDG_CACHE_HOME": str(folder / "cache"), "PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, str(SCRIPTS / script), *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


def make_programs(folder: Path, **programs: str) -> None:
    for name, text in programs.items():
        path = folder / name.replace("_", "-")
        path.write_text(text)
        path.chmod(0o755)


def test_llama_cpp_and_we_are_measured_in_turn(tmp_path):
    make_programs(tmp_path, llama_bench=LLAMA_BENCH, llama_batched_bench=BATCHED_BENCH)
    file = tmp_path / "out.json"
    arguments = ["--llama-bin", str(tmp_path), "--gguf", "model.gguf", "--streams", "1,2", "--generate", "4"]
    arguments += ["--long-context", "192", "--dense", "bfloat16", "--json", str(file)]
    ended = call("compare_llama_cpp.py", tmp_path, *arguments, *OPTIONS)
    assert ended.returncode == 0, ended.stderr
    turns = [line for line in ended.stderr.splitlines() if line.startswith("round")]
    assert turns == [
        f"round {number} of 2: {name}" for number in (1, 2) for name in ("llama.cpp", "gptoss-ray")
    ]
    document = json.loads(file.read_text())
    rows = {row["what"]: row for row in document["rows"]}
    names = ["prompt of 16", "decode, 1 streams", "decode, 1 streams at 192", "decode, 2 streams"]
    assert list(rows)[:4] == names
    assert rows["decode, 1 streams at 192"]["llama.cpp"] == "1.5 (1.5 to 1.5)"
    assert rows["decode, 2 streams"]["llama.cpp"] == "3.5 (3.5 to 3.5)"
    assert len(document["sides"]["gptoss-ray"]["rounds"]) == len(document["gptoss-ray runs"]) == 2
    assert "| prompt of 16 | 10.0 (10.0 to 10.0) |" in ended.stdout


def test_a_program_that_fails_ends_the_comparison_with_what_it_said(tmp_path):
    make_programs(tmp_path, llama_bench="#!/bin/sh\necho no such model\nexit 3\n")
    ended = call("compare_llama_cpp.py", tmp_path, "--llama-bin", str(tmp_path), "--gguf", "none", *OPTIONS)
    assert ended.returncode == 1
    assert "llama-bench ended with 3:\nno such model" in ended.stderr


@pytest.mark.oracle
def test_transformers_is_extrapolated_from_two_depths(tmp_path):
    file = tmp_path / "out.json"
    more = ["--depths", "1,2", "--repeats", "1", "--json", str(file)]
    ended = call("compare_transformers.py", tmp_path, *OPTIONS, "--rounds", "1", *more)
    assert ended.returncode == 0, ended.stderr
    document = json.loads(file.read_text())
    assert document["is_extrapolated"]
    assert [row["what"] for row in document["rows"]][:2] == ["prompt of 16", "decode, 1 streams"]
    assert "extrapolated from 1,2 layers to 4" in ended.stdout


@pytest.mark.parametrize("script", ["compare_llama_cpp.py", "compare_transformers.py"])
def test_every_script_says_what_it_wants(script, tmp_path):
    ended = call(script, tmp_path, "--help")
    assert ended.returncode == 0 and "--threads" in ended.stdout


def test_one_depth_tells_nothing(tmp_path):
    ended = call("compare_transformers.py", tmp_path, *OPTIONS, "--depths", "2,2")
    assert ended.returncode == 2 and "two different numbers of layers" in ended.stderr
