"""One trace from the client's span to the rank, over real Serve, as a collector receives it."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import httpx
import pytest
import yaml

from gptoss_ray.client import chat_request
from tests.support.marked_requests import PROMPT_MARK, find_marks, marked_requests
from tests.support.served_app import API_KEY, ServedApp, serve_app, write_config
from tests.support.traces import PARENT_ID, TRACE_ID, TRACEPARENT, Collector, otlp_collector

SPANS = {"queue", "prefill", "decode"}


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with otlp_collector() as collector:
        yield collector


@pytest.fixture(scope="module")
def traced(
    tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path, collector: Collector
) -> Iterator[ServedApp]:
    path = write_config(tmp_path_factory.mktemp("traced") / "serve.yaml", tiny_checkpoint)
    config = yaml.safe_load(path.read_text())
    config["applications"][0]["args"] |= {"tracing": True, "json_logs": True}
    path.write_text(yaml.safe_dump(config))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.endpoint)
        patch.setenv("OTEL_BSP_SCHEDULE_DELAY", "200")
        with serve_app(path) as app:
            yield app


def spans_of(collector: Collector, trace_id: str, names: set[str]) -> dict[str, object]:
    """Wait until a trace has spans of these names."""
    deadline_s = time.monotonic() + 60
    while True:
        found = {s.name: s for _, s in collector.spans() if s.trace_id.hex() == trace_id}
        if names <= found.keys():
            return found
        assert time.monotonic() < deadline_s, found.keys()
        time.sleep(0.1)


def test_a_request_over_http_is_one_trace_down_to_the_rank(traced, collector):
    body = {"model": "tiny", "prompt": PROMPT_MARK, "max_tokens": 5, "ignore_eos": True}
    headers = traced.headers | {"traceparent": TRACEPARENT}
    url = f"{traced.base_url}/v1/completions"
    httpx.post(url, json=body, headers=headers, timeout=120).raise_for_status()
    found = spans_of(collector, TRACE_ID, SPANS | {"POST /v1/completions"})
    request = found["POST /v1/completions"]
    assert request.parent_span_id.hex() == PARENT_ID
    for name in SPANS:
        assert found[name].parent_span_id == request.span_id
        assert request.start_time_unix_nano <= found[name].start_time_unix_nano
    assert found["queue"].start_time_unix_nano <= found["prefill"].start_time_unix_nano
    assert {service for service, _ in collector.spans()} == {"gptoss_ray"}


def test_a_call_over_grpc_is_one_too(traced, collector):
    trace_id = "1" * 32
    metadata = [*traced.grpc_metadata, ("traceparent", f"00-{trace_id}-{PARENT_ID}-01")]
    request = chat_request("tiny", PROMPT_MARK).SerializeToString()
    with grpc.insecure_channel(f"127.0.0.1:{traced.grpc_port}") as channel:
        channel.unary_unary("/gptoss.v1.ChatService/Chat")(request, metadata=metadata, timeout=120)
    found = spans_of(collector, trace_id, SPANS | {"Chat"})
    assert found["Chat"].parent_span_id.hex() == PARENT_ID
    assert {found[name].parent_span_id for name in SPANS} == {found["Chat"].span_id}


def test_no_trace_has_a_prompt_or_a_key(collector):
    assert collector.bodies
    for body in collector.bodies:
        assert PROMPT_MARK.encode() not in body
        assert API_KEY.encode() not in body


def test_ingress_replica_and_ranks_log_as_json_with_the_ids_of_a_request(traced):
    body = {"model": "tiny", "prompt": PROMPT_MARK, "max_tokens": 5, "ignore_eos": True}
    headers = traced.headers | {"x-request-id": "find-me"}
    url = f"{traced.base_url}/v1/completions"
    httpx.post(url, json=body, headers=headers, timeout=120).raise_for_status()
    lines = json_lines(traced)
    deadline_s = time.monotonic() + 60  # the request is logged once its answer is sent
    while "http_request" not in {line["event"] for line in lines if is_mine(line)}:
        assert time.monotonic() < deadline_s
        time.sleep(0.1)
        lines = json_lines(traced)
    assert {"rank_ready", "engine_ready"} <= {line["event"] for line in lines}
    assert any(str(line.get("message")).startswith("memory_plan ") for line in lines)
    mine = [line for line in lines if is_mine(line)]
    assert {line["event"] for line in mine} == {"http_request", "request_admitted"}
    assert all("trace_id" in line for line in mine)


def test_no_log_has_a_prompt_or_a_key(traced):
    with httpx.Client(base_url=traced.base_url, timeout=120) as http:
        for status, path, fields, headers in marked_requests("tiny", API_KEY):
            sent = {"content-type": "application/json", **headers}
            assert http.post(path, content=json.dumps(fields), headers=sent).status_code == status
    for path in traced.logs.rglob("*"):
        if path.is_file():
            assert find_marks(path.read_text(encoding="utf-8", errors="replace"), API_KEY) == [], path


def is_mine(line: dict[str, object]) -> bool:
    return line.get("client_request_id") == "find-me"


def json_lines(app: ServedApp) -> list[dict[str, object]]:
    """Return all lines of all processes that are JSON of ours."""
    files = [path for path in app.logs.rglob("*") if path.is_file()]
    texts = [path.read_text(encoding="utf-8", errors="replace") for path in files]
    lines = [line for text in texts for line in text.splitlines() if line.startswith('{"time": ')]
    return [json.loads(line) for line in lines]
