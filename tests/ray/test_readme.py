"""The README's examples, run as they are written against the demo model (only the ports differ)."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.readme import readme_example
from tests.support.served_app import ROOT, ServedApp, serve_app, write_demo_config


@pytest.fixture(scope="module")
def served_demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedApp]:
    with serve_app(write_demo_config(tmp_path_factory.mktemp("readme") / "demo.yaml")) as app:
        yield app


def example(language: str, marker: str, served: ServedApp) -> str:
    return readme_example(language, marker, http_port=served.http_port, grpc_port=served.grpc_port)


def run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_curl_is_answered(served_demo):
    output = run("bash", "-c", example("sh", "curl http", served_demo))
    assert "17 + 25 = 42" in output


@pytest.mark.parametrize(("marker", "num_answers"), [("from openai", 3), ("gptoss_ray.client", 2)])
def test_the_python_clients_are_answered_whole_and_streamed(served_demo, marker, num_answers):
    output = run(sys.executable, "-W", "ignore", "-c", example("python", marker, served_demo))
    assert output.count("17 + 25 = 42") == num_answers


def test_the_chat_command_answers_and_calls_a_tool(served_demo):
    command = Path(sys.executable).with_name("gptoss-ray")
    options = ("--url", f"http://127.0.0.1:{served_demo.http_port}", "--temperature", "0")
    assert "17 + 25 = 42" in run(str(command), "chat", "17 + 25", *options)
    output = run(str(command), "chat", "What is the weather in Paris?", "--tools", *options)
    assert '({"city": "Paris"}) -> {"city": "Paris"' in output


def test_the_generate_command_continues_a_raw_prompt(served_demo):
    command = Path(sys.executable).with_name("gptoss-ray")
    prompt = "<|start|>user<|message|>17 + 25<|end|><|start|>assistant<|channel|>final<|message|>"
    address = f"127.0.0.1:{served_demo.grpc_port}"
    output = run(str(command), "generate", prompt, "--address", address, "--temperature", "0")
    assert output.strip()
