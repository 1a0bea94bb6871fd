"""Every bad input is refused with its exact status and error, and the server is well behind it."""

from __future__ import annotations

import shutil
import socket
from pathlib import Path

import grpc
import httpx
import pytest

from gptoss_ray.checkpoint.reader import CheckpointReader
from gptoss_ray.checkpoint.synthetic import tiny_config, write_checkpoint
from gptoss_ray.checkpoint.verify import verify_checkpoint
from gptoss_ray.config import LimitsConfig, ServingConfig
from gptoss_ray.errors import CheckpointError, ConfigError
from gptoss_ray.serving import limits, request_heads
from gptoss_ray.yaml_document import YamlDocument
from tests.bad_inputs.checkpoint_cases import CHECKPOINT_CASES
from tests.bad_inputs.grpc_cases import GRPC_CASES
from tests.bad_inputs.http_cases import CHAT, HTTP_CASES, QUESTION
from tests.bad_inputs.wire_cases import WIRE_CASES
from tests.bad_inputs.yaml_cases import YAML_CASES
from tests.support.ingresses import ANSWER, MODEL, grpc_server, http_server, make_ingress, tokens
from tests.support.scripted_source import ScriptedSource

GOOD = {"model": MODEL, "messages": [QUESTION]}


def by_name(case):
    return case.name


@pytest.fixture(scope="module")
def source():
    return ScriptedSource(tokens(ANSWER))


@pytest.fixture(scope="module")
def server(source):
    """A server on loopback, with a small limit of bytes, so that a body over it is soon made."""
    with http_server(make_ingress(source, limits=LimitsConfig(max_body_bytes=1 << 20))) as url:
        yield url


@pytest.fixture
def http(server, source):
    """A client; behind the test nothing runs, and a real request is answered."""
    with httpx.Client(base_url=server, timeout=60) as client:
        yield client
        assert not source.open_ids
        answer = client.post(CHAT, json=GOOD)
        assert answer.json()["choices"][0]["message"]["content"] == "It is 42."


def test_there_are_more_than_a_hundred_cases_and_none_twice():
    cases = [*HTTP_CASES, *WIRE_CASES, *GRPC_CASES, *CHECKPOINT_CASES, *YAML_CASES]
    assert len(cases) > 200
    for kind in (HTTP_CASES, WIRE_CASES, GRPC_CASES, CHECKPOINT_CASES, YAML_CASES):
        assert len({case.name for case in kind}) == len(kind)


@pytest.mark.parametrize("case", HTTP_CASES, ids=by_name)
def test_over_http(http, case):
    response = http.post(case.path, content=case.body, headers=case.headers)
    error = response.json().get("error", {})
    assert response.status_code == case.status, response.text[:500]
    assert (error.get("type"), error.get("param"), error.get("code")) == (
        case.error_type,
        case.param,
        case.code,
    )
    assert len(response.content) < 2000, "an error does not send back what it was sent"


@pytest.mark.parametrize("case", WIRE_CASES, ids=by_name)
def test_over_the_wire(http, case, monkeypatch):
    monkeypatch.setattr(limits, "BODY_TIMEOUT_S", 0.2)
    monkeypatch.setattr(request_heads, "HEAD_TIMEOUT_S", 0.2)
    url = http.base_url
    with socket.create_connection((url.host, url.port), timeout=30) as connection:
        connection.sendall(case.sent)
        answer = b""
        # The server ends it, or it stays open behind a whole answer.
        while b"\r\n\r\n" not in answer and (piece := connection.recv(1 << 16)):
            answer += piece
    status = int(answer.split()[1]) if answer else 0
    assert status == case.status, answer[:300]
    if status in (404, 408):
        assert b"content-type: application/json" in answer


@pytest.mark.parametrize("case", GRPC_CASES, ids=by_name)
async def test_over_grpc(case):
    source = ScriptedSource(tokens(ANSWER))
    async with grpc_server(make_ingress(source)) as target, grpc.aio.insecure_channel(target) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await channel.unary_unary(case.method)(case.sent)
        assert caught.value.code() is case.code
        assert case.said in caught.value.details()
        assert "Traceback" not in caught.value.details()
        assert source.requests == []
        await channel.unary_unary("/gptoss.v1.ModelService/ListModels")(b"")


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sound")
    write_checkpoint(folder, tiny_config(num_layers=2, hidden_size=32, intermediate_size=32, vocab_size=64))
    return folder


@pytest.mark.parametrize("case", CHECKPOINT_CASES, ids=by_name)
def test_on_disk(sound: Path, tmp_path, case):
    folder = tmp_path / "checkpoint"
    shutil.copytree(sound, folder)
    case.spoil(folder)
    defects = [each for each in verify_checkpoint(folder, fast=True) if each.file != "tokenizer.json"]
    if not case.said:
        assert not defects
        return
    assert any(
        case.said in defect.problem for defect in defects if defect.file == (case.file or folder.name)
    ), defects
    with pytest.raises(CheckpointError) as caught:
        CheckpointReader.open(folder)
    assert (case.file or folder.name) in str(caught.value)
    assert not [each for each in verify_checkpoint(sound, fast=True) if each.file != "tokenizer.json"]


@pytest.mark.parametrize("case", YAML_CASES, ids=by_name)
def test_in_a_configuration(tmp_path, case):
    path = tmp_path / "serve.yaml"
    path.write_bytes(case.content)
    with pytest.raises(ConfigError, match=case.said) as caught:
        YamlDocument.read(path).validate(ServingConfig)
    assert str(caught.value).startswith(str(path))
    assert len(str(caught.value)) < 1000


def test_hundreds_of_schemas_each_its_own_are_all_answered(http):
    for number in range(300):
        demanded = {
            "name": "s",
            "schema": {"type": "object", "properties": {f"a{number}": {"type": "string"}}},
        }
        body = {**GOOD, "response_format": {"type": "json_schema", "json_schema": demanded}}
        assert http.post(CHAT, json=body).status_code == 200
