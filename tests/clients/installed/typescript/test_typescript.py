"""Stubs for another language, from `protos/` alone: linted, generated, type-checked and used over gRPC.

Needs Node.js; the packages of package.json come from npm, into a folder of the test run.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.api.test_client import grpc_server_thread
from tests.support.ingresses import ANSWER, MODEL, make_ingress, tokens

pytestmark = [pytest.mark.clients, pytest.mark.timeout(1800)]

HERE = Path(__file__).parent
PROTOS = Path(__file__).parents[4] / "protos"
GENERATE = """
version: v2
plugins:
  - local: protoc-gen-es
    out: gen
    opt: target=ts,import_extension=js
"""
TYPES = {
    "compilerOptions": {
        "strict": True,
        "target": "es2022",
        "module": "nodenext",
        "skipLibCheck": True,
        "types": ["node"],
        "outDir": "dist",
        "rootDir": ".",
    },
    "include": ["client.ts", "gen"],
}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("typescript")
    for name in ("package.json", "client.ts"):
        shutil.copy(HERE / name, folder)
    (folder / "buf.gen.yaml").write_text(GENERATE)
    (folder / "tsconfig.json").write_text(json.dumps(TYPES))
    run(folder, "npm", "install", "--no-fund", "--no-audit", "--ignore-scripts")
    yield folder


def run(folder: Path, *command: str) -> str:
    done = subprocess.run(
        command,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_protos_are_clean_by_bufs_standard_and_comment_rules(project):
    assert run(project, "npx", "buf", "lint", str(PROTOS)) == ""


def test_a_lint_that_finds_nothing_would_find_something(project, tmp_path):
    shutil.copytree(PROTOS, tmp_path / "protos")
    models = tmp_path / "protos/gptoss/v1/models.proto"
    models.write_text(models.read_text().replace("  // Name or alias.\n", "", 1))
    with pytest.raises(AssertionError, match="non-empty comment"):
        run(project, "npx", "buf", "lint", str(tmp_path / "protos"))


def test_generated_stubs_type_check_and_speak_with_the_server(project):
    run(project, "npx", "buf", "generate", str(PROTOS))
    run(project, "npx", "tsc", "--project", ".")
    with grpc_server_thread(make_ingress(tokens(ANSWER))) as target:
        told = json.loads(run(project, "node", "dist/client.js", target, MODEL))
    assert told["content"] == told["streamed"] == "It is 42."
    assert told["reasoning"] == "17 and 25."
    assert told["stopped"]
    assert int(told["seed"]) >= 0
    assert told["tokenIds"] == [token_id for (token_id,) in tokens(ANSWER)]
    assert told["completionTokens"] == len(tokens(ANSWER))
    assert "".join(told["tokens"]) == "<|start|>user"
