"""Two models of different shapes behind one address: the `model` field chooses, each has its own replicas."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import yaml

from gptoss_ray.checkpoint.synthetic import tiny_config, write_checkpoint
from gptoss_ray.serving.free_ports import free_ports
from tests.support.served_app import ROOT, ServedApp, serve_app

NAMES = ("openai/gpt-oss-20b", "openai/gpt-oss-120b")


def write_both(folder: Path) -> Path:
    """Write configs/both-models.yaml with free ports and a tiny checkpoint for each model, not alike."""
    config = yaml.safe_load((ROOT / "configs/both-models.yaml").read_text(encoding="utf-8"))
    config["http_options"]["port"], config["grpc_options"]["port"] = free_ports(2)
    shapes = ({"num_layers": 2, "num_experts": 8}, {"num_layers": 3, "num_experts": 32})
    for model, shape in zip(config["applications"][0]["args"]["models"], shapes, strict=True):
        checkpoint = folder / model["aliases"][0]
        layers = {"layer_types": tiny_config().layer_types[:1] * shape["num_layers"]}
        write_checkpoint(
            checkpoint,
            tiny_config(vocab_size=201_088, eos_token_ids=(200_002, 200_012), **shape, **layers),
        )
        engine = {"num_threads": 1, "kv_cache_bytes": 16 << 20, "max_context": 1024}
        model |= {"checkpoint": str(checkpoint), "engine": engine}
    path = folder / "both.yaml"
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedApp]:
    with serve_app(write_both(tmp_path_factory.mktemp("both"))) as app:
        yield app


@pytest.fixture
def http(served: ServedApp) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=served.base_url, timeout=120) as client:
        yield client


def complete(http: httpx.Client, **fields: object) -> dict:
    body = {"prompt": "Count:", "max_tokens": 12, "temperature": 0, "ignore_eos": True} | fields
    response = http.post("/v1/completions", json=body)
    assert response.status_code == 200, response.text
    return response.json()


def test_the_model_field_chooses_by_name_or_alias_and_without_it_the_first_answers(http):
    texts = {}
    for name in NAMES:
        answer = complete(http, model=name)
        assert answer["model"] == name
        texts[name] = answer["choices"][0]["text"]
        assert complete(http, model=name.removeprefix("openai/"))["choices"][0]["text"] == texts[name]
    assert texts[NAMES[0]] != texts[NAMES[1]]
    assert {model["id"] for model in http.get("/v1/models").json()["data"]} >= set(NAMES)
    unknown = http.post("/v1/completions", json={"model": "gpt-oss-2b", "prompt": "x"})
    assert unknown.status_code == 404
    assert unknown.json()["error"]["code"] == "model_not_found"


def test_each_model_has_replicas_and_figures_of_its_own(served, http):
    states = served.ask("replicas")
    assert states["EngineReplica-openai-gpt-oss-20b"] == {"RUNNING": 1}
    assert states["EngineReplica-openai-gpt-oss-120b"] == {"RUNNING": 1}
    metrics = http.get("/metrics").text
    for name in NAMES:
        assert f'gptoss_kv_cache_usage_ratio{{model="{name}",rank="0",' in metrics
