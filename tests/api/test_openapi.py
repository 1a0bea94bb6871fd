"""What `/openapi.json` says is what comes and goes."""

import json

import jsonschema
import pytest

from gptoss_ray.serving.http_app import build_fastapi_app
from gptoss_ray.serving.openai_types import ChatCompletionRequest, CompletionRequest
from gptoss_ray.serving.responses.request import ResponseRequest
from tests.support.group_stats import healed_group
from tests.support.ingresses import ANSWER, CALL, MODEL, http_client, make_ingress, tokens
from tests.support.responses import read_events
from tests.support.scripted_source import ScriptedSource

CHAT = "/v1/chat/completions"
HI = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}]}
WEATHER = {"type": "function", "function": {"name": "weather"}}
STRICT = {"type": "function", "function": {"name": "weather", "strict": True}}
NAMED = {"type": "function", "function": {"name": "weather"}}
ALLOWED = {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [NAMED]}}
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}}
JSON_OBJECT = {"type": "json_object"}
JSON_SCHEMA = {"type": "json_schema", "json_schema": {"name": "a", "schema": SCHEMA, "strict": True}}
LOGPROBS = {"logprobs": True, "top_logprobs": 2}
PROMPT = {"model": MODEL, "prompt": "hi"}
RESPONSES = "/v1/responses"
INPUT = {"model": MODEL, "input": "hi"}
FUNCTION = {"type": "function", "name": "weather", "strict": True, "parameters": {"type": "object"}}
NAMESPACE = {"type": "namespace", "name": "n", "tools": [FUNCTION, {"type": "custom", "name": "c"}]}
ITEMS = [
    {"role": "user", "content": [{"type": "input_text", "text": "a"}]},
    {"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": "a"}]},
    {"type": "message", "role": "assistant", "content": "a", "phase": "commentary"},
    {"type": "function_call", "call_id": "c", "name": "g", "namespace": "n", "arguments": "{}"},
    {"type": "function_call_output", "call_id": "c", "output": "a"},
    {"type": "custom_tool_call", "call_id": "d", "name": "c", "input": "a"},
    {"type": "custom_tool_call_output", "call_id": "d", "output": "a"},
]
ALLOWED_BY_NAME = {
    "type": "allowed_tools",
    "mode": "auto",
    "tools": [{"type": "function", "name": "weather"}],
}
TEXT = {"format": {"type": "json_schema", "name": "a", "schema": SCHEMA}, "verbosity": "low"}
ABORT = "/v1/requests/{request_id}"
EXCHANGES = [
    ("POST", RESPONSES, ANSWER, INPUT),
    ("POST", RESPONSES, ANSWER, {**INPUT, "background": True, "metadata": {"a": "b"}}),
    (
        "POST",
        RESPONSES,
        CALL,
        {**INPUT, "input": ITEMS, "tools": [FUNCTION, NAMESPACE, {"type": "web_search"}]},
    ),
    ("POST", RESPONSES, CALL, {**INPUT, "tools": [FUNCTION], "tool_choice": ALLOWED_BY_NAME}),
    ("POST", RESPONSES, ANSWER, {**INPUT, "text": TEXT, "reasoning": {"effort": "low", "summary": "auto"}}),
    ("POST", RESPONSES, ANSWER, {**INPUT, "include": ["message.output_text.logprobs"], "top_logprobs": 1}),
    ("POST", CHAT, ANSWER, HI),
    ("POST", CHAT, CALL, {**HI, **LOGPROBS, "tools": [WEATHER], "n": 2}),
    ("POST", CHAT, ANSWER, {**HI, "max_tokens": 1}),
    ("POST", CHAT, ANSWER, {**HI, "tools": [STRICT], "tool_choice": "auto", "response_format": JSON_OBJECT}),
    ("POST", CHAT, ANSWER, {**HI, "tools": [WEATHER], "tool_choice": NAMED, "guided_json": SCHEMA}),
    ("POST", CHAT, CALL, {**HI, "tools": [WEATHER], "tool_choice": ALLOWED, "response_format": JSON_SCHEMA}),
    ("POST", "/v1/completions", "a<|return|>", PROMPT),
    ("POST", "/v1/completions", "a<|return|>", {**PROMPT, "guided_json": '{"type": "object"}'}),
    ("POST", "/v1/completions", "a<|return|>", {**PROMPT, "structured_outputs": {"choice": ["a", "b"]}}),
    ("POST", "/v1/completions", "a b", {**PROMPT, "logprobs": 2, "echo": True, "max_tokens": 1}),
    ("POST", "/v1/completions", "a b", {**PROMPT, "logprobs": 2, "echo": True, "max_tokens": 0}),
    ("POST", "/v1/completions", "a<|return|>", {**PROMPT, "prompt": [[5, 6], [7]], "stop": "x"}),
    ("POST", "/tokenize", "", {"prompt": "a", "return_token_strs": True}),
    ("POST", "/tokenize", "", {"messages": HI["messages"]}),
    ("POST", "/detokenize", "", {"tokens": [5]}),
    ("GET", "/tokenizer_info", "", None),
    ("GET", "/v1/models", "", None),
    ("GET", "/v1/models/{name}", "", None),
    ("GET", "/live", "", None),
    ("GET", "/ready", "", None),
    ("GET", "/health", "", None),
    ("GET", "/ping", "", None),
    ("POST", "/ping", "", None),
    ("GET", "/dashboard/state", "", None),
    ("GET", "/version", "", None),
    ("GET", "/openapi.json", "", None),
]


async def described(**options):
    headers = {"authorization": "Bearer key"}
    async with http_client(make_ingress([], **options), headers=headers) as client:
        return (await client.get("/openapi.json")).json()


def check(value, schema, document):
    """Validate a value; keys that the schema does not name are wrong too."""
    names = [name for name in document["components"]["schemas"] if not name.endswith("Request")]
    closed = json.loads(json.dumps(document["components"]))
    for name in names:
        if "properties" in closed["schemas"][name]:
            closed["schemas"][name].setdefault("additionalProperties", False)
    jsonschema.Draft202012Validator({**schema, "components": closed}).validate(value)


@pytest.mark.parametrize(("method", "path", "script", "body"), EXCHANGES)
async def test_requests_and_answers_are_as_described(method, path, script, body):
    document = await described()
    operation = document["paths"][path][method.lower()]
    source = ScriptedSource(tokens(script), group_stats=[healed_group()])
    async with http_client(make_ingress(source)) as client:
        response = await client.request(method, path.replace("{name}", MODEL), json=body)
    assert response.status_code == 200, response.text
    check(response.json(), operation["responses"]["200"]["content"]["application/json"]["schema"], document)
    assert ("requestBody" in operation) == (body is not None)
    if body is not None:
        check(body, operation["requestBody"]["content"]["application/json"]["schema"], document)


@pytest.mark.parametrize(
    ("path", "script", "body"),
    [
        (CHAT, CALL, {**HI, **LOGPROBS, "tools": [WEATHER], "n": 2}),
        (CHAT, ANSWER, {**HI, "stream_options": {"include_usage": True, "continuous_usage_stats": True}}),
        ("/v1/completions", "a b", {**PROMPT, "logprobs": 2, "echo": True, "max_tokens": 1}),
    ],
)
async def test_every_event_of_a_stream_is_as_described(path, script, body):
    document = await described()
    content = document["paths"][path]["post"]["responses"]["200"]["content"]
    async with http_client(make_ingress(tokens(script))) as client:
        response = await client.post(path, json={**body, "stream": True})
    *events, done, _ = response.text.split("\n\n")
    assert done == "data: [DONE]"
    for event in events:
        check(json.loads(event.removeprefix("data: ")), content["text/event-stream"]["itemSchema"], document)


@pytest.mark.parametrize("body", [{}, {**HI, "n": 0}, {**HI, "model": "gpt-9"}])
async def test_errors_are_as_described(body):
    document = await described()
    async with http_client(make_ingress([])) as client:
        response = await client.post(CHAT, json=body)
    error = document["paths"][CHAT]["post"]["responses"]["4XX"]
    check(response.json(), error["content"]["application/json"]["schema"], document)


async def test_every_route_is_described_and_no_other():
    app = build_fastapi_app(make_ingress([]))
    served = {
        (route.path.replace(":path", ""), method)
        for route in app.routes
        if route.include_in_schema
        for method in route.methods - {"HEAD", "OPTIONS"}
    }
    paths = (await described())["paths"]
    assert {(path, method.upper()) for path, methods in paths.items() for method in methods} == served
    stored = {path for path in paths if path.startswith(f"{RESPONSES}/")}
    assert {path for _, path, _, _ in EXCHANGES} == paths.keys() - {"/metrics", ABORT} - stored


async def test_the_answer_about_an_abort_is_as_described():
    async with http_client(make_ingress([])) as client:
        answer = (await client.delete(ABORT.replace("{request_id}", "none"))).json()
    document = await described()
    check(answer, answer_schema(document, "delete", ABORT), document)


def answer_schema(document, method, path):
    return document["paths"][path][method]["responses"]["200"]["content"]["application/json"]["schema"]


async def test_answers_about_a_stored_response_are_as_described():
    document = await described()
    one = f"{RESPONSES}/{{response_id}}"
    async with http_client(make_ingress(tokens(CALL))) as client:
        created = (await client.post(RESPONSES, json={**INPUT, "input": ITEMS, "background": True})).json()
        for method, path in (
            ("post", f"{one}/cancel"),
            ("get", f"{one}/input_items"),
            ("get", one),
            ("delete", one),
        ):
            response = await client.request(method, path.replace("{response_id}", created["id"]))
            assert response.status_code == 200, response.text
            check(response.json(), answer_schema(document, method, path), document)
    names = [parameter["name"] for parameter in document["paths"][one]["get"]["parameters"]]
    assert names == ["response_id", "stream", "starting_after"]


@pytest.mark.parametrize("fields", [{}, {"background": True}, {"max_output_tokens": 30}])
@pytest.mark.parametrize("call", ["weather", "c"])
async def test_every_event_of_a_response_is_as_described(fields, call):
    document = await described()
    content = document["paths"][RESPONSES]["post"]["responses"]["200"]["content"]["text/event-stream"]
    body = {**INPUT, **fields, "tools": [FUNCTION, {"type": "custom", "name": "c"}], "stream": True}
    async with http_client(make_ingress(tokens(CALL.replace("weather", call)))) as client:
        response = await client.post(RESPONSES, json=body)
    for event in read_events(response.text):
        check(event, content["itemSchema"], document)


async def test_every_field_of_a_request_is_described():
    schemas = (await described())["components"]["schemas"]
    for kind in (ChatCompletionRequest, CompletionRequest, ResponseRequest):
        assert schemas[kind.__name__]["properties"].keys() == kind.model_fields.keys()


async def test_a_key_is_told_of_where_one_is_needed():
    paths = (await described(api_keys=("key",)))["paths"]
    public = {path for path, methods in paths.items() if all("security" not in m for m in methods.values())}
    assert public == {"/health", "/live", "/ready", "/ping"}
    assert "securitySchemes" not in (await described())["components"]
