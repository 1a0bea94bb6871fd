"""What clients say, and their keys, stand in no log, whatever becomes of the request."""

import json
import logging

import pytest

from gptoss_ray.errors import InternalError, OverloadedError, RequestAbortedError, UnavailableError
from gptoss_ray.json_logs import JsonFormatter
from tests.support.ingresses import ANSWER, MODEL, http_client, make_ingress, tokens
from tests.support.marked_requests import PROMPT_MARK, find_marks, marked_requests
from tests.support.scripted_source import Endless, ScriptedSource

KEY = "a-good-key-of-a-test"


def script(request):
    return [Endless(token_id=None)] if request.params.max_tokens > 100 else tokens(ANSWER)


@pytest.mark.parametrize("as_json", [False, True])
async def test_no_log_has_a_prompt_or_a_key_at_any_status(caplog, monkeypatch, as_json):
    caplog.set_level(logging.DEBUG)
    if as_json:
        monkeypatch.setattr(caplog.handler, "formatter", JsonFormatter())
    async with http_client(make_ingress(ScriptedSource(script), api_keys=[KEY])) as client:
        for status, path, fields, headers in marked_requests(MODEL, KEY):
            sent = {"content-type": "application/json", **headers}
            response = await client.post(path, content=json.dumps(fields), headers=sent)
            assert response.status_code == status, (path, fields, response.text[:200])
    assert ('"event": "http_request"' if as_json else "event=http_request") in caplog.text
    assert find_marks(caplog.text, KEY) == []


@pytest.mark.parametrize(
    "error",
    [
        OverloadedError("full."),
        UnavailableError("gone."),
        InternalError("broken."),
        RequestAbortedError("no."),
    ],
)
async def test_no_log_has_a_prompt_or_a_key_where_the_engine_fails(error, caplog):
    caplog.set_level(logging.DEBUG)
    body = {"model": MODEL, "messages": [{"role": "user", "content": PROMPT_MARK}]}
    async with http_client(make_ingress([*tokens(ANSWER)[:4], error], api_keys=[KEY])) as client:
        for stream in (False, True):
            headers = {"x-api-key": KEY}
            await client.post("/v1/chat/completions", json={**body, "stream": stream}, headers=headers)
    assert "event=http_request" in caplog.text
    assert find_marks(caplog.text, KEY) == []
