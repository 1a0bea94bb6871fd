"""The same through a real Serve: every log of Ray, Serve, ingress, replica and rank is searched."""

from __future__ import annotations

import json

import grpc
import httpx
import pytest

from gptoss_ray.client import chat_request
from tests.support.marked_requests import KEY_MARK, PROMPT_MARK, find_marks, marked_requests
from tests.support.served_app import API_KEY, ServedApp


def test_no_log_of_any_process_has_a_prompt_or_a_key(served: ServedApp) -> None:
    with httpx.Client(base_url=served.base_url, timeout=120) as http:
        for status, path, fields, headers in marked_requests("tiny", API_KEY):
            sent = {"content-type": "application/json", **headers}
            response = http.post(path, content=json.dumps(fields), headers=sent)
            assert response.status_code == status, (path, response.text[:200])
    request = chat_request("tiny", PROMPT_MARK).SerializeToString()
    with grpc.insecure_channel(f"127.0.0.1:{served.grpc_port}") as channel, pytest.raises(grpc.RpcError):
        channel.unary_unary("/gptoss.v1.ChatService/Chat")(
            request, metadata=[("authorization", f"Bearer {KEY_MARK}")], timeout=60
        )
    files = [path for path in served.logs.rglob("*") if path.is_file()]
    assert any("replica" in path.name for path in files)
    for path in files:
        found = find_marks(path.read_text(encoding="utf-8", errors="replace"), API_KEY)
        # What the operator wrote into the configuration, keys too, Serve logs nowhere either.
        assert found == [], path
