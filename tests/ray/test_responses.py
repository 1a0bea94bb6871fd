"""Responses behind a real Serve with two ingress replicas: one store, which outlives both."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from gptoss_ray.serving.responses.store import LEASE_S
from tests.support.served_app import ServedApp, serve_app, write_config

URL = "/v1/responses"


@pytest.fixture(scope="module")
def two_ingresses(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path) -> Iterator[ServedApp]:
    path = write_config(tmp_path_factory.mktemp("two") / "serve.yaml", tiny_checkpoint, num_ingresses=2)
    with serve_app(path) as app:
        yield app


@pytest.fixture
def http(two_ingresses: ServedApp) -> Iterator[httpx.Client]:
    # A connection for each request, so that Serve's proxy picks an ingress for each.
    limits = httpx.Limits(max_keepalive_connections=0)
    app = two_ingresses
    with httpx.Client(base_url=app.base_url, headers=app.headers, timeout=60, limits=limits) as client:
        yield client


def body(**fields: object) -> dict[str, object]:
    return {"model": "tiny", "input": "hello", "max_output_tokens": 12, "temperature": 0, **fields}


def create(http: httpx.Client, **fields: object) -> dict:
    return http.post(URL, json=body(**fields)).raise_for_status().json()


def first_event(response: httpx.Response) -> dict:
    lines = []
    for line in response.iter_lines():
        if line.startswith("data: "):
            return json.loads(line.removeprefix("data: "))
        lines.append(line)
    raise AssertionError(f"no event: {response.status_code} {lines}")


def until(http: httpx.Client, response_id: str, *statuses: str, within_s: float = 60.0) -> dict:
    deadline_s = time.monotonic() + within_s
    while True:
        answer = http.get(f"{URL}/{response_id}")
        if answer.status_code == 200 and answer.json()["status"] in statuses:
            return answer.json()
        assert time.monotonic() < deadline_s, answer.text
        time.sleep(0.2)


def ingresses(app: ServedApp) -> list:
    return app.processes("ServeReplica:gptoss:Ingress")


def test_a_response_of_one_ingress_is_known_to_all_and_outlives_them(two_ingresses, http):
    first = create(http)
    assert first["store"]
    for _ in range(10):
        assert http.get(f"{URL}/{first['id']}").raise_for_status().json() == first
        assert create(http, previous_response_id=first["id"])["usage"]["input_tokens"] > 0
    replicas = ingresses(two_ingresses)
    assert len(replicas) == 2
    for replica in replicas:
        replica.kill()
    assert until(http, first["id"], first["status"]) == first


def test_a_background_stream_is_resumed_and_cancelled_through_any_ingress(two_ingresses, http):
    # Random weights may say nothing for long: here every token is a word.
    (word,) = http.post("/tokenize", json={"prompt": " word"}).raise_for_status().json()["tokens"]
    fields = {"background": True, "stream": True, "max_output_tokens": 1900, "logit_bias": {word: 100}}
    with http.stream("POST", URL, json=body(**fields)) as response:
        response_id = first_event(response)["response"]["id"]
    for after in (0, 3, 6):
        path = f"{URL}/{response_id}?stream=true&starting_after={after}"
        with http.stream("GET", path) as response:
            assert first_event(response)["sequence_number"] == after + 1
    for _ in range(4):
        assert http.post(f"{URL}/{response_id}/cancel").raise_for_status().json()["status"] == "cancelled"
    deadline_s = time.monotonic() + 20
    while two_ingresses.rank_stats()["num_live_requests"]:
        assert time.monotonic() < deadline_s
        time.sleep(0.05)


def test_the_background_responses_of_lost_ingresses_fail(two_ingresses, http):
    fields = {"background": True, "max_output_tokens": 1500, "min_tokens": 1500}
    response_ids = [create(http, **fields)["id"] for _ in range(2)]
    for replica in ingresses(two_ingresses):
        replica.kill()
    for response_id in response_ids:
        failed = until(http, response_id, "failed", within_s=LEASE_S + 60)
        assert failed["error"]["code"] == "server_error"


def test_a_lost_store_loses_what_it_kept_and_is_replaced(two_ingresses, http):
    first = create(http)
    assert two_ingresses.ask("kill_response_stores") == 1
    deadline_s = time.monotonic() + 60
    while not (again := create(http))["store"]:
        assert time.monotonic() < deadline_s
    # Each ingress notices for itself.
    while (lost := http.get(f"{URL}/{first['id']}")).status_code != 404:
        assert lost.status_code == 503
        assert time.monotonic() < deadline_s
    assert until(http, again["id"], again["status"]) == again
