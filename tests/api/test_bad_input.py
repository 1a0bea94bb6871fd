import json

import pytest

from gptoss_ray.config import LimitsConfig
from tests.support.ingresses import ANSWER, MAX_CONTEXT, MODEL, http_client, make_ingress, tokens
from tests.support.scripted_source import ScriptedSource

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
BODY = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}]}


async def send(method, path, *, limits=None, source=None, **options):
    """Return status, headers and the error object, whose form is checked."""
    ingress = make_ingress(source or ScriptedSource(tokens(ANSWER)), limits=limits)
    async with http_client(ingress) as client:
        response = await client.request(method, path, **options)
    body = response.json()
    assert body.keys() == {"error"}
    assert body["error"].keys() == {"message", "type", "param", "code"}
    assert isinstance(body["error"]["message"], str)
    return response.status_code, response.headers, body["error"]


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b"[1]", b'{"model": "\\ud800"}', b"[" * 200_000])
async def test_a_body_that_is_no_json_object_is_a_400(path, body):
    status, _, error = await send("POST", path, content=body)
    assert status == 400
    assert error["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages[0].content"),
        ({"messages": [{"role": "tool", "content": "x", "tool_call_id": "no"}]}, "messages[0].tool_call_id"),
        ({"messages": [{"role": "function", "content": "x"}]}, "messages[0].name"),
        ({"messages": [{"role": "function", "name": "a b", "content": "x"}]}, "messages[0].name"),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools[0].function.name"),
        ({"temperature": "hot"}, "temperature"),
        ({"temperature": 3}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"logit_bias": {"999999": 1}}, "logit_bias"),
        ({"n": 99}, "n"),
        ({"stop": ["x"] * 99}, "stop"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"response_format": {"type": "xml"}}, "response_format.type"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_a_wrong_field_is_a_400_that_names_it_before_anything_runs(fields, param, stream):
    source = ScriptedSource(tokens(ANSWER))
    status, _, error = await send("POST", CHAT, source=source, json={**BODY, "stream": stream, **fields})
    assert (status, error["param"], error["type"]) == (400, param, "invalid_request_error")
    assert param.split("[")[0].split(".")[0] in error["message"]
    assert source.requests == []


async def test_a_prompt_over_the_context_has_a_code_of_its_own():
    for path, fields in (
        (CHAT, {"messages": [{"role": "user", "content": "no way " * MAX_CONTEXT}]}),
        (COMPLETIONS, {"prompt": [5] * MAX_CONTEXT}),
    ):
        status, _, error = await send("POST", path, json={"model": MODEL, **fields})
        assert (status, error["code"]) == (400, "context_length_exceeded")
        assert f"maximum context length is {MAX_CONTEXT} tokens" in error["message"]


async def test_an_output_over_the_context_is_cut_to_it():
    source = ScriptedSource(tokens(ANSWER))
    async with http_client(make_ingress(source)) as client:
        await client.post(CHAT, json={**BODY, "max_tokens": 131_072})
    (request,) = source.requests
    assert request.params.max_tokens == MAX_CONTEXT - len(request.prompt_token_ids)


async def test_an_unknown_model_is_a_404_that_names_the_served_ones():
    for path, fields in ((CHAT, BODY), (COMPLETIONS, {"prompt": "hi"})):
        status, _, error = await send("POST", path, json={**fields, "model": "gpt-9"})
        assert (status, error["param"], error["code"]) == (404, "model", "model_not_found")
        assert MODEL in error["message"]
    assert (await send("GET", "/v1/models/gpt-9"))[0] == 404


@pytest.mark.parametrize(
    "path", ["/v1", "/v1/chat/completions/", "/v1/embeddings", "/docs", "/tokenize/", "/page"]
)
async def test_an_unknown_route_is_a_404(path):
    status, _, error = await send("POST", path)
    assert (status, error["code"]) == (404, "not_found")


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", CHAT), ("DELETE", "/v1/models"), ("OPTIONS", COMPLETIONS), ("POST", "/openapi.json")],
)
async def test_a_wrong_method_is_a_405_that_tells_the_right_ones(method, path):
    status, headers, error = await send(method, path)
    assert (status, error["code"]) == (405, "method_not_allowed")
    assert headers["allow"]


async def test_a_body_over_the_limit_is_a_413_before_all_of_it_is_read():
    num_sent = 0

    async def body():
        nonlocal num_sent
        for _ in range(100):
            num_sent += 1
            yield b"x" * 1024

    status, _, error = await send("POST", CHAT, limits=LimitsConfig(max_body_bytes=4096), content=body())
    assert (status, error["code"]) == (413, "request_too_large")
    assert num_sent < 10


async def test_a_fault_of_the_server_is_a_500_without_its_traceback(caplog):
    class Broken(ScriptedSource):
        async def generate(self, request):
            raise RuntimeError("at /secret/path")
            yield

    headers = {"x-request-id": "req-7"}
    status, _, error = await send("POST", CHAT, source=Broken([]), json=BODY, headers=headers)
    assert (status, error["type"]) == (500, "server_error")
    assert "secret" not in json.dumps(error)
    assert "req-7" in error["message"]
    assert "event=internal_error request_id=req-7" in caplog.text
    assert "/secret/path" in caplog.text
